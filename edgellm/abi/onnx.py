"""Does an ONNX file fit a target's ONNX Runtime? IR version, operator sets, operators, weights in other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from edgellm.abi import FileFacts, Finding, Level
from edgellm.abi.reader import DamagedError, opened
from edgellm.core.target import Target
from edgellm.core.versions import Release, dotted, oldest
from edgellm.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    import onnx

LEVELS: tuple[tuple[Release, int, int, int], ...] = (
    ((1, 10), 8, 15, 2),
    ((1, 11), 8, 16, 2),
    ((1, 12), 8, 17, 3),
    ((1, 14), 8, 18, 3),
    ((1, 16), 9, 19, 3),
    ((1, 17), 9, 20, 4),
    ((1, 18), 10, 21, 4),
    ((1, 21), 10, 22, 5),
    ((1, 23), 11, 23, 5),
    ((1, 24), 13, 25, 5),
    ((1, 25), 13, 26, 5),
)
"""ONNX Runtime release to the newest IR version, ai.onnx opset and ai.onnx.ml opset that it loads.

Up to 1.20 from the table in onnxruntime.ai/docs/reference/compatibility (ONNX opset support); from 1.15 on measured as
well, by loading one-node models with each release. Where the two differ (1.15: opset 19 is announced and refused; ML
opset 5 is loaded by 1.18), the smaller one stands here."""

_LEAST_OPSET = 7
_PRIVATE = "com.microsoft"
_PRIVATE_SINCE: dict[str, Release] = {"MatMulNBits": (1, 17)}
"""Operators of that domain to the release of ONNX Runtime that runs them: edgellm's int4 files were run with 1.17.0."""
_INT8_KERNELS = {"MatMulInteger": 1, "ConvInteger": 1, "QLinearMatMul": 3, "QLinearConv": 3}
"""Operators of a U8S8 kernel to the input that holds the weights."""
_NO_SATURATION = 64
"""255 * 64 * 2 fits 16 bits: the sum of two products that AVX2's vpmaddubsw saturates. With 127 it does not."""

_Rule = tuple[str, Level, str, str]


def examine_onnx(path: Path, subject: str, target: Target | None) -> tuple[FileFacts, list[Finding]]:
    """Return facts and findings of one ONNX file.

    Raises:
        InputError: it can't be read, is no ONNX file, or is damaged.
        MissingDependencyError: the onnx package is not installed.

    """
    model = load_onnx(path)
    opsets = {_domain(item.domain): item.version for item in model.opset_import}
    functions = {(_domain(function.domain), function.name) for function in model.functions}
    operators = Counter((_domain(node.domain), node.op_type) for node in _nodes(model))
    external = sorted({entry.value for t in _tensors(model) for entry in t.external_data if entry.key == "location"})
    facts = FileFacts(
        subject,
        "onnx",
        {
            "IR version": model.ir_version,
            "opsets": tuple(f"{domain} {version}" for domain, version in sorted(opsets.items())),
            "operators": sum(operators.values()),
            "kinds": tuple(sorted(f"{domain}:{name}" for domain, name in operators)),
            "other files": tuple(external),
        },
    )
    rules = [*_levels(model.ir_version, opsets, target)] if target else []
    inner = {_domain(item.domain): item.version for function in model.functions for item in function.opset_import}
    rules += _private(operators, target)
    rules += _operators(operators, {**inner, **opsets}, functions)
    rules += _external(path, external)
    if target and target.arch == "x86_64":
        rules += _saturation(model, target)
    return facts, [Finding(subject, *rule) for rule in rules]


def level_of(version: Release) -> tuple[Release, int, int, int] | None:
    """Return the row of `LEVELS` that answers for a release; None where it is older than the table."""
    return max((row for row in LEVELS if row[0] <= version), default=None)


def _levels(ir_version: int, opsets: dict[str, int], target: Target) -> Iterator[_Rule]:
    if "onnxruntime" not in target.runtimes:
        return
    version = oldest(target.runtimes["onnxruntime"])
    runtime = f"ONNX Runtime {dotted(version)}, the oldest that {target.name} allows,"
    row = level_of(version)
    if row is None:
        yield (
            "IR version", "warning", f"nothing is known of {runtime}.",
            "Raise the target's oldest version, or try the file on the device.",
        )  # fmt: skip
    limits = {"IR version": target.onnx.ir_version, "opset": target.onnx.opset}
    limit, who = limits["IR version"], f"{target.name} declares"
    if row and row[1] < limit:
        limit, who = row[1], f"{runtime} reads up to"
    if ir_version > limit:
        yield (
            "IR version", "error", f"IR version {ir_version}; {who} {limit}, so it is refused when it loads.",
            "Save it with an older ir_version, or raise the target's oldest runtime.",
        )  # fmt: skip
    else:
        yield "IR version", "ok", f"{ir_version}; {who} {limit}.", ""
    for domain, opset in sorted(opsets.items()):
        limit, who = limits["opset"], f"{target.name} declares"
        if row and (domain == "ai.onnx.ml" or row[2] < limit):
            limit, who = row[3] if domain == "ai.onnx.ml" else row[2], f"{runtime} has"
        if domain not in ("ai.onnx", "ai.onnx.ml"):
            continue
        if opset > limit:
            yield (
                "opset", "error", f"{domain} {opset}; {who} {limit}.",
                "Export with an older opset, or raise the target's oldest runtime.",
            )  # fmt: skip
        else:
            yield "opset", "ok", f"{domain} {opset}; {who} {limit}.", ""


def _private(operators: Counter[tuple[str, str]], target: Target | None) -> Iterator[_Rule]:
    used = sorted(name for domain, name in operators if domain == _PRIVATE)
    unknown = [name for name in used if name not in _PRIVATE_SINCE]
    if unknown:
        yield (
            "operators", "warning",
            f"{', '.join(unknown)} of {_PRIVATE} are no ONNX: only full builds of ONNX Runtime have them, each since "
            "some version that is recorded nowhere.",
            "Run the file with the target's oldest ONNX Runtime before it ships.",
        )  # fmt: skip
    if target is None or "onnxruntime" not in target.runtimes:
        return
    version = oldest(target.runtimes["onnxruntime"])
    for name in used:
        since = _PRIVATE_SINCE.get(name)
        if since is not None and version < since:
            yield (
                "operators", "error",
                f"{name} of {_PRIVATE} is in ONNX Runtime since {dotted(since)}; {target.name} allows {dotted(version)}.",
                "Raise the target's oldest version, or build another scheme than int4.",
            )  # fmt: skip


def _operators(
    operators: Counter[tuple[str, str]], opsets: dict[str, int], functions: set[tuple[str, str]]
) -> Iterator[_Rule]:
    from onnx import defs

    unknown = []
    for domain, name in sorted(operators):
        if (domain, name) in functions or (domain == _PRIVATE and domain in opsets):
            continue
        if domain not in opsets:
            yield (
                "operators", "error", f"{name} is of the domain {domain}, whose version the file does not state.",
                "Export the model again.",
            )  # fmt: skip
        elif domain in ("ai.onnx", "ai.onnx.ml"):
            inner = "" if domain == "ai.onnx" else domain
            try:
                schema = defs.get_schema(name, opsets[domain], inner)
            except defs.SchemaError:
                unknown.append(f"{name} of {domain} {opsets[domain]}")
                continue
            if schema.deprecated:
                unknown.append(f"{name} of {domain} {opsets[domain]}")
        else:
            unknown.append(f"{name} of {domain}")
    if unknown:
        yield (
            "operators", "error", f"ONNX Runtime has no {', '.join(unknown)}.",
            "Export with the opset that has it, or register the custom operator library on the device.",
        )  # fmt: skip
    elif opsets.get("ai.onnx", _LEAST_OPSET) < _LEAST_OPSET:
        yield (
            "opset", "error", f"ai.onnx {opsets['ai.onnx']}; ONNX Runtime begins at {_LEAST_OPSET}.",
            "Convert it with onnx.version_converter.",
        )  # fmt: skip
    else:
        yield "operators", "ok", f"all {len(operators)} kinds are in the operator sets that it states.", ""


def _external(path: Path, locations: list[str]) -> Iterator[_Rule]:
    for name in locations:
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if not inside or not os.path.isfile(os.path.join(path.parent, name)):  # a Path fails on names that are too long
            yield (
                "other files", "error", f"its weights are in {name!r}, which is not beside it.",
                "Ship both files, or save the model as one.",
            )  # fmt: skip


def _saturation(model: onnx.ModelProto, target: Target) -> Iterator[_Rule]:
    """Yield a warning where AVX2 kernels would saturate: U8S8 without VNNI (onnxruntime.ai, quantization, "U8S8")."""
    from onnx import TensorProto

    weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and not t.external_data}
    used = {n.input[_INT8_KERNELS[n.op_type]] for n in model.graph.node
            if len(n.input) > _INT8_KERNELS.get(n.op_type, len(n.input))}  # fmt: skip
    wide = [name for name in sorted(used & set(weights)) if _largest(weights[name]) > _NO_SATURATION]
    has = [feature for feature in ("avx512_vnni", "avx_vnni", "amx_int8") if feature in target.cpu_features]
    if wide and not has:
        yield (
            "CPU features", "warning",
            f"{len(wide)} signed 8-bit weights meet unsigned activations, and {target.name} declares no VNNI: "
            "without it ONNX Runtime's kernels saturate at 16 bits.",
            "Quantize with reduce_range, or declare avx512_vnni or avx_vnni in the target's cpu_features.",
        )  # fmt: skip
    elif wide:
        yield "CPU features", "ok", f"{len(wide)} signed 8-bit weights, and {has[0]} to multiply them.", ""


def _largest(weights: onnx.TensorProto) -> int:
    """Return the largest absolute value of an int8 tensor, whatever its shape says."""
    stored = np.frombuffer(weights.raw_data, np.int8) if weights.raw_data else np.array(weights.int32_data, np.int64)
    return int(np.abs(stored.astype(np.int64)).max(initial=0))


def load_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in an ONNX file.

    Raises:
        InputError: it can't be read, is no ONNX file, or is damaged.
        MissingDependencyError: the onnx package is not installed.

    """
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError(
            "Examining ONNX files needs onnx.", hint="Install it with: pip install 'edgellm[build]'"
        ) from None
    with opened(path) as reader:
        data = reader.at(0, reader.size)
    try:
        model = onnx.load_model_from_string(data)
        model.opset_import[0]  # protobuf takes nearly any bytes for a message without these
        model.graph.node[0]
        if any(isinstance(name, bytes) for name in _names(model)):  # what protobuf makes of broken UTF-8
            raise DamagedError("a name in it is no text")
    except Exception as error:  # protobuf has no base class of its errors that all versions share
        reason = (
            "it has no graph or no operator set" if isinstance(error, IndexError) else str(error).partition("\n")[0]
        )
        raise InputError(f"{path} is no sound ONNX file: {reason}.", hint="Copy or build it again.") from None
    return model


def _domain(name: str) -> str:
    return name or "ai.onnx"


def _names(model: onnx.ModelProto) -> Iterator[object]:
    for function in model.functions:
        yield from (function.domain, function.name, *(item.domain for item in function.opset_import))
    for node in _nodes(model):
        yield from (node.domain, node.op_type)
    for tensor in _tensors(model):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    yield from (item.domain for item in model.opset_import)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graph, of its inner graphs, and of the functions."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            waiting += [*attribute.g.node, *(inner for graph in attribute.graphs for inner in graph.node)]


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from attribute.g.initializer
            if attribute.HasField("t"):
                yield attribute.t
