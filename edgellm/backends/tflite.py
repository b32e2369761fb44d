"""TFLite: one signature per bucket over shared weights, converted by litert-torch, quantized by ai-edge-quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgellm.backends import Lowered, Prepared, _tflite_quantize, contents_of
from edgellm.backends._delegation_tflite import survey_tflite
from edgellm.backends.calibrate import calibrate, left_out, quantize_weights
from edgellm.backends.constructs import converting
from edgellm.backends.fitting import round_prepared
from edgellm.backends.trace import example, trace_static
from edgellm.core.precision import Precisions
from edgellm.core.signature import InputSpec, Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError
from edgellm.runtime.engines.tflite import signature_name

_HYBRID = {"int8-dynamic", "int8-static", "int4-dynamic"}
"""Schemes whose linears read 8-bit activations."""

_HYBRID_VERSION = 12
"""FULLY_CONNECTED version stamped on those: tflite-runtime 2.14 knows up to 10, loads such a file without an
error and computes garbage, so it has to be made to refuse it."""


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.tflite."""
    import litert_torch

    module = prepared.module
    narrow, notes = round_prepared(prepared, precisions, "tflite", _tflite_quantize.grouped)
    if narrow or precisions.layers:
        _tflite_quantize.keep_apart(module, lambda name: not precisions.is_static(name))
    if precisions.static:
        calibrated, left = calibrate(module, prepared.samples, method=prepared.ranges, wanted=precisions.is_static)
        notes += left_out(left, "tflite quantizes what they read as it comes")
        quantize_weights(module, calibrated, stored=False)
    if any(isinstance(module.get_submodule(name), nn.Linear) and precisions.of(name).name == "int4-weight-only"
           for name in narrow):  # fmt: skip
        notes += (_tflite_quantize.SLOW_INT4,)
    converter = litert_torch
    for tokens in prepared.buckets:
        feeds = example(prepared, tokens, torch.int32)
        # The converter traces for itself, so that a mask it must not see has to be gone before.
        masked = module if prepared.finite_mask else trace_static(module, feeds).module()
        named = Named(masked, prepared.output.name)
        converter = converter.signature(signature_name(tokens), named, None, feeds)
    plain = folder / "model-fp32.tflite"
    with converting("tflite", lambda: trace_static(module, feeds), module):
        converter.convert(**_folding(precisions.static)).export(str(plain))
    path = folder / f"model-{precisions.name}.tflite"
    if precisions.name != "fp32":
        _tflite_quantize.quantize(plain, module, precisions, path)
        plain.unlink()
    data = bytearray(path.read_bytes())
    if {scheme.name for scheme in precisions.schemes} & _HYBRID:
        stamp_fully_connected(data, _HYBRID_VERSION)
    path.write_bytes(data)
    inputs = tuple(InputSpec(s.name, "int32", s.shape, s.bound, s.pad) for s in prepared.inputs)
    return Lowered(
        file=path.name,
        signature=Signature(inputs, (prepared.output,), buckets=prepared.buckets),
        session_options={},
        delegation=survey_tflite(path),
        contents=contents_of(constants_of(data), len(data)),
        notes=notes,
    )


def _folding(static: bool) -> dict[str, Any]:
    """Return what tells the converter to make integer kernels of the calibrated linears that the graph states."""
    if not static:
        return {}
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    how = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return {"quant_config": QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(how))}


class Named(nn.Module):
    """Names the output: the converter takes the name from a dict's key."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name

    def train(self, mode: bool = True) -> Named:
        """Do nothing: the module is in evaluation mode, and a traced one refuses to be told."""
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the output by its name."""
        if token_type_ids is None:
            return {self.name: self.module(input_ids=input_ids, attention_mask=attention_mask)}
        return {
            self.name: self.module(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        }


def stamp_fully_connected(data: bytearray, version: int) -> None:
    """Raise the version of every FULLY_CONNECTED operator code to `version`, in place.

    Raises:
        EdgellmError: there is none to stamp.

    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(data, 0)
    stamped = False
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        if code.BuiltinCode() != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        # Field 2 of OperatorCode in the schema; a default value of 1 is not stored and so can't be patched.
        offset = code._tab.Offset(8)
        if not offset:
            raise EdgellmError(
                "FULLY_CONNECTED has no version in the file, so it can't be guarded against old runtimes."
            )
        where = code._tab.Pos + offset
        current = int.from_bytes(data[where : where + 4], "little")
        data[where : where + 4] = max(current, version).to_bytes(4, "little")
        stamped = True
    if not stamped:
        raise EdgellmError("The quantized TFLite graph has no FULLY_CONNECTED operator.")


def constants_of(data: bytearray) -> dict[str, int]:
    """Return the bytes of constants by what reads them."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(data, 0)
    readers = {
        schema.BuiltinOperator.EMBEDDING_LOOKUP: "embedding tables",
        schema.BuiltinOperator.GATHER: "embedding tables",
        schema.BuiltinOperator.FULLY_CONNECTED: "matmul weights",
        schema.BuiltinOperator.DEQUANTIZE: "matmul weights",
    }
    kinds: dict[str, int] = {}
    seen = set()
    for s in range(model.SubgraphsLength()):
        graph = model.Subgraphs(s)
        for o in range(graph.OperatorsLength()):
            operator = graph.Operators(o)
            kind = readers.get(model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode(), "other constants")
            for i in range(operator.InputsLength()):
                if operator.Inputs(i) < 0:
                    continue
                number = graph.Tensors(operator.Inputs(i)).Buffer()
                stored = model.Buffers(number)
                size = stored.DataLength() or stored.Size()  # large buffers lie outside the flatbuffer
                if size and number not in seen:
                    seen.add(number)
                    kinds[kind] = kinds.get(kind, 0) + size
    return kinds
