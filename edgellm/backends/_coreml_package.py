"""Core ML's packages, written so that the same model gives the same bytes, and converted without the converter's chatter."""

from __future__ import annotations

import json
import re
import shutil
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from edgellm.abi.coreml import precision
from edgellm.abi.coreml_package import Package, Weight
from edgellm.backends import Prepared
from edgellm.backends._quiet import importing
from edgellm.backends.constructs import unsupported
from edgellm.core.signature import InputSpec
from edgellm.core.target import Target, platform
from edgellm.errors import EdgellmError, UsageError

SCHEMES = ("fp16", "int8-weight-only")
"""What Core ML is asked for: it computes in 16-bit floats, with weights of 16 or 8 bits."""

SEVERAL_SHAPES = 18
"""iOS from which several inputs may have enumerated shapes (coremltools and ExecuTorch refuse it for older ones)."""

_OLDEST = 17
"""iOS from which indices of a table may be 16-bit integers; older systems would want another opset than is tested here."""

_THRESHOLD = 2048
"""Weights that a matrix needs to have to be quantized: scales of smaller ones would cost what they save."""

_MODEL = "com.apple.CoreML/model.mlmodel"
_WEIGHTS = "com.apple.CoreML/weights"
_DATE = "com.github.apple.coremltools.conversion_date"
_UNTRANSLATED = re.compile(r"(?:for op '|Unsupported fx node )(\w+)")


def system(target: Target) -> int:
    """Return the oldest iOS of a target.

    Raises:
        UsageError: it is no iOS, or too old.

    """
    name, release = platform(target.abi)
    if name != "ios" or release[0] < _OLDEST:
        raise UsageError(
            f"Core ML artifacts are for iOS {_OLDEST} and newer, and the abi of {target.name} is {target.abi}.",
            hint="Choose another delegate or format, or raise the target's abi.",
        )
    return release[0]


def deployment(ios: int) -> Any:
    """Return coremltools' name of the newest system that is not newer than an iOS."""
    with importing():
        import coremltools as ct

    known = {int(each.name.removeprefix("iOS")): each for each in ct.target if each.name.startswith("iOS")}
    return known[max(number for number in known if number <= ios)]


def ensure_scheme(scheme: str) -> None:
    """Check that Core ML can be asked for a scheme.

    Raises:
        UsageError: it can't.

    """
    if scheme not in SCHEMES:
        raise UsageError(
            f"coreml can't express {scheme}: the Neural Engine computes in 16-bit floats.",
            hint=f"Use --scheme {' or '.join(SCHEMES)}.",
        )


def served(prepared: Prepared, ios: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the lengths that a system can be given, and a note where those are fewer than were asked for."""
    if ios >= SEVERAL_SHAPES or len(prepared.buckets) == 1:
        return prepared.buckets, ()
    longest = prepared.buckets[-1]
    return (longest,), (
        f"iOS {ios} takes one shape where there are several inputs, so every text is padded to {longest} tokens; "
        f"iOS {SEVERAL_SHAPES} and newer take one shape per bucket.",
    )


def narrowed(prepared: Prepared) -> tuple[InputSpec, ...]:
    """Return the inputs as Core ML takes them: 32-bit integers."""
    return tuple(InputSpec(each.name, "int32", each.shape, each.bound, each.pad) for each in prepared.inputs)


@contextmanager
def translating(program: Callable[[], ExportedProgram], module: nn.Module) -> Iterator[None]:
    """Turn what coremltools raises about an operator into one sentence; anything else passes through.

    Raises:
        InputError: Core ML has no translation for an operator; names the module that uses it.

    """
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        found = _UNTRANSLATED.findall(str(error))
        if not found:
            raise
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # where the converter keeps a folder that is to be cleaned up now
        raise unsupported("Core ML", found, "coremltools has no translation of it", program(), module) from None


def quantize_weights(model: Any) -> Any:
    """Return the model with its matrices and tables as int8, one scale per output channel or row."""
    with importing():
        import coremltools.optimize.coreml as optimize

    config = optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=_THRESHOLD - 1
    )
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))


def write_package(model: Any, path: Path) -> None:
    """Write a converted model as a package: the same bytes for the same model.

    coremltools names the two items of a package by random UUIDs and writes the day into the specification; here the names
    are made from the paths, and there is no day.
    """
    spec = model.get_spec()
    spec.description.metadata.userDefined.pop(_DATE, None)
    data = path / "Data"
    (data / _MODEL).parent.mkdir(parents=True)
    (data / _MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    if model.weights_dir is not None:
        shutil.copytree(model.weights_dir, data / _WEIGHTS, copy_function=shutil.copyfile)
    items = {
        place: {"author": "com.apple.CoreML", "description": description, "name": Path(place).name, "path": place}
        for place, description in ((_MODEL, "CoreML Model Specification"), (_WEIGHTS, "CoreML Model Weights"))
        if (data / place).exists()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {_identifier(place): item for place, item in items.items()},
        "rootModelIdentifier": _identifier(_MODEL),
    }
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True), encoding="utf-8")


def _identifier(place: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, place))


def ensure_package(package: Package, scheme: str) -> None:
    """Check the precision of what was written, as read back.

    Raises:
        EdgellmError: it computes in another precision than 16-bit floats, or holds a matrix or table in another.

    """
    wrong = [message for _, level, message, _ in precision(package) if level == "error"]
    dtype = "int8" if scheme == "int8-weight-only" else "float16"
    others = [each for each in _matrices(package) if each.elements >= _THRESHOLD and each.dtype != dtype]
    if others:
        one = max(others, key=lambda each: each.elements)
        wrong.append(
            f"{len(others)} matrices or tables are no {dtype}, the largest with {one.elements} weights as {one.dtype}, "
            f"which {one.reader} reads"
        )
    if wrong:
        raise EdgellmError(f"The Core ML package is not what {scheme} says: {'; '.join(wrong)}.")


def kinds(package: Package) -> dict[str, int]:
    """Return bytes of embedding tables and of matmul weights, as they are in the file."""
    found = {"embedding tables": 0, "matmul weights": 0}
    for each in _matrices(package):
        found["embedding tables" if each.reader == "gather" else "matmul weights"] += each.bytes
    return found


def _matrices(package: Package) -> list[Weight]:
    return [each for each in package.weights if each.reader in ("conv", "gather", "linear", "matmul")]
