"""Arm Ethos-U: a TFLite file that is integer throughout, and what Vela makes of it for the NPU.

Two files come of one model. The quantized one runs in any TFLite interpreter: it is the reference that the gate holds
against the fp32 model. Vela's has the same operators as commands for the NPU, and runs on a device only. What tells them
apart is Vela's own arithmetic, which is TFLite's but for tables that it interpolates (see `_ethos_u_graph`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edgellm.backends import Lowered, Prepared, contents_of
from edgellm.backends._ethos_u_bytes import narrowed
from edgellm.backends._ethos_u_graph import restate
from edgellm.backends._ethos_u_quantize import Feeds, quantize
from edgellm.backends.bias import correct_biases, unrounded
from edgellm.backends.calibrate import ranges_of
from edgellm.backends.constructs import converting
from edgellm.backends.observe import one_thread
from edgellm.backends.rounding import layers_of
from edgellm.backends.tflite import Named, constants_of
from edgellm.backends.trace import example, trace_static
from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, grouped
from edgellm.core.npu import Accelerator, CpuOperator, NpuReport
from edgellm.core.precision import Precisions
from edgellm.core.signature import InputSpec, Signature
from edgellm.core.target import Target
from edgellm.errors import GateError, InputError
from edgellm.runtime.engines.tflite import signature_name
from edgellm.toolchain import vela
from edgellm.toolchain.vela_output import read_refused, read_summary

NARROW = "int8-static"
"""Scheme of a linear that reads and writes bytes; all else is a16w8."""

ON_CPU: tuple[str, ...] = ("CAST", "DEQUANTIZE", "EMBEDDING_LOOKUP", "QUANTIZE")
"""Operators that may stay on the CPU: those that look ids up, and those where integers begin and end."""

_BETWEEN = "QUANTIZE (of integers)"
"""What stands between bytes and 16 bits: on the CPU it would interrupt the NPU."""

NOT_RUN = (
    "What was compiled for the Ethos-U was not run: there is none here. Its agreement is that of the file that Vela compiled, "
    "with the same integers, in TFLite's interpreter."
)
"""The note that every artifact for an Ethos-U carries."""

_ETHOS_U = "ethos-u"
_NO_CAUSE = "Vela gives no reason"
_ON_PURPOSE = "left to the CPU on purpose, beside the lookup that it serves"
_TEXTS = 32
"""Texts at most that say what a usual variance is; ranges are taken over all."""


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-SCHEME.tflite, the reference, and model-SCHEME_vela.tflite, which has one length: the longest bucket.

    Raises:
        InputError: nothing to calibrate on, or the model can't be converted or compiled.
        MissingDependencyError: Vela is not set up.
        GateError: an operator stays on the CPU that may not.

    """
    assert target.npu is not None
    scheme = precisions.name
    accelerator = Accelerator.of(target.npu.accelerator, target.npu.system, target.npu.memory_mode)
    reference = folder / f"model-{scheme}.tflite"
    corrected = correct_biases(prepared, unrounded(prepared), "tflite", precisions)
    kept = write_reference(prepared, precisions, accelerator.matmul_bits, reference)
    compiled = vela.compile_model(reference, accelerator, folder, on_cpu=kept)
    data = compiled.file.read_bytes()
    report = report_of(compiled, data, reference.read_bytes(), accelerator, kept)
    ensure_on_npu(report, {*ON_CPU, *kept})
    inputs = tuple(InputSpec(s.name, "int32", s.shape, s.bound, s.pad) for s in prepared.inputs)
    return Lowered(
        file=compiled.file.name,
        signature=Signature(inputs, (prepared.output,), buckets=prepared.buckets[-1:]),
        session_options={},
        delegation=delegation_of(report),
        contents=contents_of(constants_of(bytearray(data)), len(data)),
        notes=(*corrected, NOT_RUN),
        reference=reference.name,
        npu=report,
    )


def delegation_of(report: NpuReport) -> Delegation:
    """Return the delegation that a report states: nothing that multiplies matrices is left, or the build has failed."""
    left = [(each.operator, each.cause, 0.0) for each in report.cpu_operators]
    return Delegation(
        "ethos-u", report.partitions, report.npu_operators, len(left), float(report.macs), 0.0, MULTIPLY_ACCUMULATES,
        grouped(left),
    )  # fmt: skip


def write_reference(prepared: Prepared, precisions: Precisions, matmul_bits: int, path: Path) -> tuple[str, ...]:
    """Write the quantized TFLite file at the longest bucket's length, and return operators in it for the CPU alone.

    Linears whose scheme is int8-static have 8-bit activations, all else 16-bit ones.

    Raises:
        InputError: there is nothing to calibrate on, or the model can't be traced or converted.

    """
    import litert_torch

    if not prepared.samples:
        raise InputError(f"{precisions.name} calibrates ranges, and there are no calibration texts.")
    _ensure_apart(prepared.module, precisions)
    narrow = ranges_of(
        prepared.module, prepared.samples, method=prepared.ranges,
        wanted=lambda layer: precisions.of(layer).name == NARROW,
    )  # fmt: skip
    tokens = prepared.buckets[-1]
    feeds = [_padded(prepared, sample, tokens) for sample in prepared.samples]
    inputs = example(prepared, tokens, torch.int32)
    name = signature_name(tokens)
    program = trace_static(prepared.module, inputs)
    computed = _computed(program)
    narrow = {layer: ranges for layer, ranges in narrow.items() if layer in computed}
    with one_thread():
        some = feeds[:: max(1, len(feeds) // _TEXTS)]
        module = restate(program.module(), some)
    plain = path.with_name("model-fp32.tflite")
    with converting("tflite", lambda: program, prepared.module):
        named = Named(module, prepared.output.name)
        litert_torch.signature(name, named, None, inputs).convert().export(str(plain))
    arrays: list[Feeds] = [{key: value.numpy() for key, value in item.items()} for item in feeds]
    kept = quantize(plain, name, arrays, matmul_bits, path, narrowed(plain, prepared.module, narrow))
    plain.unlink()
    return kept


def _ensure_apart(module: nn.Module, precisions: Precisions) -> None:
    """Check that no linear with 8-bit activations shares its weight: a file tells layers by their weights.

    Raises:
        InputError: one does.

    """
    owners: dict[int, str] = {}
    for name, child in layers_of(module):
        other = owners.setdefault(id(child.weight), name)
        if other != name and NARROW in (precisions.of(name).name, precisions.of(other).name):
            raise InputError(
                f"{other} and {name} share their weight, so that neither can have 8-bit activations.",
                hint="Leave both out of the layers with int8-static.",
            )


def _computed(program: ExportedProgram) -> set[str]:
    """Return the layers whose weights have a part in the outputs: others are in no file (a pooler that nobody asks)."""
    graph = copy.deepcopy(program.graph)
    graph.eliminate_dead_code()
    names = program.graph_signature.inputs_to_parameters
    used = {node.target for node in graph.nodes if node.op == "placeholder" and node.users}
    return {name.removesuffix(".weight") for place, name in names.items() if place in used}


def report_of(
    compiled: vela.Compiled, data: bytes, reference: bytes, accelerator: Accelerator, kept: Collection[str]
) -> NpuReport:
    """Return the report: which operators stay outside is read from the compiled file, why from what Vela printed.

    Args:
        compiled: by Vela.
        data: of the compiled file.
        reference: what was compiled.
        accelerator: it was compiled for.
        kept: kinds of operators that Vela was told to leave to the CPU.

    """
    causes = {refused.output: refused.cause for refused in read_refused(compiled.printed)}
    summary = read_summary(compiled.summary)
    operators = _operators(data)
    outside = tuple(
        CpuOperator(operator, output, causes.get(output, _ON_PURPOSE if operator in kept else _NO_CAUSE))
        for operator, output in operators
        if operator != _ETHOS_U
    )
    return NpuReport(
        compiler=f"Vela {vela.version()}",
        accelerator=accelerator,
        partitions=len(operators) - len(outside),
        npu_operators=len(_operators(reference)) - len(outside),
        cpu_operators=outside,
        sram_bytes=summary.sram_bytes,
        dram_bytes=summary.dram_bytes,
        flash_bytes=summary.flash_bytes,
        file_bytes=len(data),
        macs=summary.macs,
        clock_mhz=summary.clock_mhz,
        estimated_ms=summary.estimated_ms,
    )


def ensure_on_npu(report: NpuReport, allowed: Collection[str] = ON_CPU) -> None:
    """Check that nothing but `allowed` operators stays on the CPU.

    Raises:
        GateError: another one does (names it, and the compiler's reason), or the NPU runs nothing.

    """
    name = report.accelerator.name
    if not report.partitions:
        raise GateError(f"{report.compiler} gives no operator of this model to {name}; all would run on the CPU.")
    odd = [item for item in report.cpu_operators if item.operator not in allowed]
    if not odd:
        return
    kinds = {item.operator: item.cause for item in reversed(odd)}
    reasons = ". ".join(f"{operator}: {kinds[operator]}" for operator in sorted(kinds))
    total = report.npu_operators + len(report.cpu_operators)
    raise GateError(
        f"{name} does not take {len(odd)} of {total} operators, so that the CPU would run them. {reasons}.",
        hint=f"Rewrite that part of the model in operators that {report.compiler} takes, or build for another delegate.",
    )


def _padded(prepared: Prepared, sample: Any, tokens: int) -> dict[str, torch.Tensor]:
    """Return inputs [1, tokens] int32 of a sample [1, n]; what is longer is cut off."""
    padded = {}
    for spec in prepared.inputs:
        row = torch.full((1, tokens), spec.pad, dtype=torch.int32)
        given = sample[spec.name][:, :tokens]
        row[:, : given.shape[1]] = given
        padded[spec.name] = row
    return padded


def _operators(data: bytes) -> list[tuple[str, str]]:
    """Return the operators of a .tflite file's graph in order: TFLite's name, or a custom one's own, and its output."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    found = []
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        code = model.OperatorCodes(operator.OpcodeIndex())
        custom = code.CustomCode()
        kind = custom.decode() if custom else names[code.BuiltinCode()]
        if kind == "QUANTIZE" and graph.Tensors(operator.Inputs(0)).Type() != schema.TensorType.FLOAT32:
            kind = _BETWEEN
        found.append((kind, graph.Tensors(operator.Outputs(0)).Name().decode()))
    return found
