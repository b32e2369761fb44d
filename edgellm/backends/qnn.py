"""Qualcomm's HTP: the ONNX graph at fixed lengths, quantized throughout, compiled ahead of time for one SoC.

Each length is a file of its own, an ONNX graph of one node that holds a context binary. A binary that several lengths share
would be smaller, and the emulation that the gate runs can't load one.

What keeps the whole encoder on the NPU, and its accuracy (onnxruntime-qnn 2.7):
- scales of LayerNorms in 8 unsigned bits: signed ones fall back to the CPU;
- weights of matmuls named one by one with their axis: the quantizer would give them one scale per tensor.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgellm.abi.qnn import NODE
from edgellm.backends import Lowered, Prepared, contents_of
from edgellm.backends._onnx_graph import constants_of, readers_of
from edgellm.backends.bias import correct_biases, unrounded
from edgellm.backends.calibrate import Range, Seen, even_out
from edgellm.backends.fitting import fit_channels
from edgellm.backends.onnx import export
from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, grouped
from edgellm.core.precision import Precisions
from edgellm.core.signature import InputSpec, Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError, GateError, InputError, first_line
from edgellm.runtime.engines.qnn import FALLBACK, session

_TEXTS = 48
"""Calibration texts at most: extremes settle soon, and every tensor of the graph is observed."""

_BEGINNINGS = (3, 5)
"""Tokens to which every second of them is cut, besides. What models write for a single word goes beyond what they write for
any sentence, and 16-bit ranges that end at sentences cut it off."""

_ROWS = 2_000
"""Rows at most that the range of one activation is chosen on."""

_BETWEEN = ("QuantizeLinear", "DequantizeLinear")

Feeds = dict[str, NDArray[np.int64]]


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>-<tokens>.onnx for each bucket.

    Raises:
        InputError: the model can't be exported or compiled.
        GateError: the NPU takes nothing of it.

    """
    assert target.htp is not None
    scheme = precisions.name
    plain, fit = unrounded(prepared), prepared.tuning.fit
    notes = fit_channels(prepared.module, prepared.samples).notes("8-bit weights of qnn") if fit else ()
    notes += correct_biases(prepared, plain, "qnn", precisions)
    if scheme == "int8-static":
        even_out(prepared.module, prepared.samples)
    model, cost = export(prepared, target)
    operators = len(model.graph.node)
    feeds = [{name: value.numpy() for name, value in item.items()} for item in prepared.samples]
    feeds = feeds[:: -(-len(feeds) // _TEXTS)]
    short = [_beginning(item, tokens) for tokens in _BEGINNINGS for item in feeds[::2]]
    ranges = _linear_ranges(model, feeds, prepared.ranges, folder) if scheme == "int8-static" else {}
    options = {"soc_model": str(target.htp.soc_model), "htp_arch": str(target.htp.arch)}
    names, outside = [], list[str]()
    for tokens in prepared.buckets:
        names.append(f"model-{scheme}-{tokens}.onnx")
        fixed = _fixed(model, tokens, folder)
        quantized = _quantized(fixed, [cut(item, prepared.inputs, tokens) for item in (*feeds, *short)], ranges, folder)
        outside = max(outside, _compile(quantized, options, folder / names[-1]), key=len)
        for path in (fixed, quantized):
            path.unlink()
    total = sum((folder / name).stat().st_size for name in names)
    return Lowered(
        file=names[0],
        more_files=tuple(names[1:]),
        signature=Signature(prepared.inputs, (prepared.output,), buckets=prepared.buckets),
        session_options=options | ({FALLBACK: "0"} if outside else {}),
        delegation=delegation_of(operators, outside, cost),
        contents=contents_of({"context binaries": total}, total),
        notes=notes,
    )


def delegation_of(operators: int, outside: Sequence[str], cost: float) -> Delegation:
    """Return the delegation of a graph of so many operators, of the length that left the most outside.

    Between operators that were left, the provider leaves the QuantizeLinear and DequantizeLinear as well. What an operator
    outside costs is not known, so that shares are of operators then.
    """
    left = [(kind, "the QNN provider does not run it on the HTP", 0.0) for kind in outside if kind not in _BETWEEN]
    partitions, known = (None, 0.0) if outside else (1, cost)
    inside = operators - len(left)
    return Delegation("htp", partitions, inside, len(left), known, 0.0, MULTIPLY_ACCUMULATES, grouped(left))


def _beginning(feeds: Feeds, tokens: int) -> Feeds:
    """Return feeds of at most `tokens` tokens, of which the last is the text's last."""
    kept = min(tokens, next(iter(feeds.values())).shape[1])
    return {name: np.concatenate([value[:, : kept - 1], value[:, -1:]], axis=1) for name, value in feeds.items()}


def cut(feeds: Feeds, inputs: Sequence[InputSpec], tokens: int) -> Feeds:
    """Return feeds cut or padded to a length."""
    made = {}
    for spec in inputs:
        made[spec.name] = np.full((1, tokens), spec.pad, dtype=np.int64)
        kept = feeds[spec.name][:, :tokens]
        made[spec.name][:, : kept.shape[1]] = kept
    return made


def _fixed(model: onnx.ModelProto, tokens: int, folder: Path) -> Path:
    """Write the graph at one length, with what follows from it folded."""
    import onnxruntime

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = tokens
    plain, path = folder / "fixed.plain.onnx", folder / "fixed.onnx"
    onnx.save(fixed, plain)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
        str(plain), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    plain.unlink()
    return path


def _linear_ranges(model: onnx.ModelProto, feeds: Sequence[Feeds], method: str, folder: Path) -> dict[str, Range]:
    """Return the 8-bit range of everything that a linear reads or writes, by the name of the value."""
    import onnxruntime

    constants = constants_of(model)
    linears = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    values = sorted({name for node in linears for name in (node.input[0], node.output[0])})
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    observed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in values)
    path = folder / "observed.onnx"
    onnx.save(observed, path)
    runner = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    seen = {name: Seen(max(1, _ROWS // len(feeds))) for name in values}
    for item in feeds:
        for name, value in zip(values, runner.run(values, item), strict=True):
            seen[name].add(torch.from_numpy(value))
    path.unlink()
    return {name: each.range(method, signed=False) for name, each in seen.items()}


def _quantized(fixed: Path, feeds: Sequence[Feeds], ranges: dict[str, Range], folder: Path) -> Path:
    """Write the graph with every operator between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._items: Iterator[Feeds] = iter(feeds)

        def get_next(self) -> Feeds | None:
            return next(self._items, None)

    model = onnx.load(fixed)
    constants = constants_of(model)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            overrides[node.input[1]] = [{"quant_type": QuantType.QUInt8, "symmetric": False}]
        elif node.op_type == "MatMul" and node.input[1] in constants:
            overrides[node.input[1]] = [{"quant_type": QuantType.QInt8, "axis": 1, "symmetric": True}]
    overrides |= _eight_bits(model, ranges)
    path = folder / "quantized.onnx"
    with _quietly():
        config = get_qnn_qdq_config(
            str(fixed), Reader(), activation_type=QuantType.QUInt16, weight_type=QuantType.QInt8, per_channel=True,
            weight_symmetric=True, init_overrides=overrides,
        )  # fmt: skip
        quantize(str(fixed), str(path), config)
    return path


def _eight_bits(model: onnx.ModelProto, ranges: dict[str, Range]) -> dict[str, list[dict[str, Any]]]:
    """Return what makes linears compute in 8 bits, and everything between them in 16.

    What a linear reads stays in 16 bits for its other readers, and what it writes is taken back to 16 bits at once.
    """
    from onnxruntime.quantization import QuantType

    def of(name: str) -> dict[str, Any]:
        scale, zero = np.array(ranges[name].scale, np.float32), np.array(ranges[name].zero, np.uint8)
        return {"quant_type": QuantType.QUInt8, "scale": scale, "zero_point": zero}

    overrides: dict[str, list[dict[str, Any]]] = {}
    readers = readers_of(model)
    linears = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[0] in ranges]
    for node in linears:
        read, written = node.input[0], node.output[0]
        convert = {**of(read), "recv_nodes": {each.name for each in linears if each.input[0] == read}}
        overrides[read] = [{"quant_type": QuantType.QUInt16, "convert": convert}]
        after = {"quant_type": QuantType.QUInt16, "recv_nodes": {each.name for each in readers[written]}}
        overrides[written] = [{**of(written), "convert": after}]
    return overrides


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Leave out advice for graphs that were not prepared, given by the root logger on every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _compile(quantized: Path, options: dict[str, str], path: Path) -> list[str]:
    """Write the context binaries of a quantized graph, inside an ONNX file; return what stayed outside them.

    Raises:
        InputError: the provider does not compile it.

    """
    config = {"ep.context_enable": "1", "ep.context_file_path": str(path), "ep.context_embed_mode": "1", FALLBACK: "0"}
    # Else the last DequantizeLinear is left to the CPU wherever the CPU may run anything.
    config["offload_graph_io_quantization"] = "0"
    try:
        session(quantized, {**options, **config})
    except EdgellmError:
        raise
    except Exception as error:  # its exceptions share no base class
        raise InputError(
            f"The HTP's compiler refuses this model: {first_line(error)}.", hint="Try a portable --format."
        ) from None
    kinds = [node.op_type for node in onnx.load(path).graph.node] if path.exists() else []
    if NODE not in kinds:
        raise GateError("The HTP took no part of the graph: all of it would run on the CPU.")
    return [kind for kind in kinds if kind != NODE]
