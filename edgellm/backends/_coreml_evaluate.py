"""Computes what a Core ML package says, on any machine, by the arithmetic that coremltools folds constants with.

This is no Core ML, and says nothing about the Neural Engine or its speed. It says that the graph and the weights in the
file are those of the model, rounded to 16 bits where the file says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.backends._quiet import importing, quietly
from edgellm.errors import EdgellmError


def evaluate(path: Path, feeds: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of a package.

    Args:
        path: of the .mlpackage.
        feeds: every input by name, of a shape that the package takes.

    Raises:
        EdgellmError: coremltools has no arithmetic for an operator.

    """
    with importing():
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.converters.mil.mil import Builder, Function, Program

    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every rounding
    try:
        with quietly():
            model = ct.models.MLModel(str(path), skip_model_load=True)
            spec = model.get_spec()
            program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
            function = program.functions["main"]
            values: dict[str, Any] = dict(feeds)
            Program()
            with Function({}, opset_version=function.opset_version), np.errstate(over="ignore"):
                for operator in function.operations:
                    _evaluate(Builder, operator, values)
            return {output.name: np.asarray(values[output.name], np.float32) for output in function.outputs}
    finally:
        logger.setLevel(level)


def _evaluate(builder: Any, operator: Any, values: dict[str, Any]) -> None:
    """Compute one operator into `values`: made anew with constants as inputs, it infers its result."""
    kind, outputs = operator.op_type, operator.outputs
    if kind == "const":
        values[outputs[0].name] = outputs[0].val
        return
    if kind.startswith("constexpr_"):
        values[outputs[0].name] = operator.materialized_val_inference()
        return
    given = {name: _value(item, values) for name, item in operator.inputs.items() if item is not None}
    if kind == "reduce_sum":  # its inference hands numpy a flag that numpy refuses
        total = np.sum(given["x"], axis=tuple(given["axes"]), keepdims=bool(given["keep_dims"]))
        values[outputs[0].name] = total.astype(given["x"].dtype)
        return
    made = getattr(builder, kind)(**{name: item for name, item in given.items() if item is not None})
    for output, each in zip(outputs, made if isinstance(made, (list, tuple)) else [made], strict=True):
        if each.val is None:
            raise EdgellmError(f"coremltools has no arithmetic for {kind}, so the package can't be evaluated here.")
        values[output.name] = each.val


def _value(item: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(item, (list, tuple)):
        return [_value(each, values) for each in item]
    return values.get(item.name, item.val)
