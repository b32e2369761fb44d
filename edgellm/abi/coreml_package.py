"""Reads a Core ML package: what its specification says, and that its weights are there. Nothing is loaded, compiled or run.

After Apple's `mlmodel/format/*.proto` (apple/coremltools), whose field numbers stand here; a package is a folder with
`Manifest.json`, which names the specification, and the weights beside it (`MILBlob/Blob/StorageFormat.hpp`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgellm.abi.protobuf import Message
from edgellm.abi.reader import DamagedError, Reader, opened
from edgellm.errors import InputError

_ML_PROGRAM = 502
_FEATURES = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}
_TYPES = {
    1: "bool", 2: "string", 10: "float16", 11: "float32", 12: "float64", 13: "bfloat16", 21: "int8", 22: "int16",
    23: "int32", 24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4",
    36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3", 40: "float8e4m3fn", 41: "float8e5m2",
}  # fmt: skip
_BITS = {"bool": 8, "bfloat16": 16, "string": 0, "float8e4m3fn": 8, "float8e5m2": 8}
_BLOB = 0xDEADBEEF
_MOST_BYTES = 256 * 1024 * 1024
"""A specification holds the graph and small constants; a model's weights are in files of their own."""


@dataclass(frozen=True)
class Feature:
    """An input or output.

    Attributes:
        name, dtype: as the application sees them.
        shapes: those it may have, the default first; one for a fixed shape.
        ranged: whether other shapes within a range are allowed as well.

    """

    name: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    ranged: bool = False


@dataclass(frozen=True)
class Weight:
    """A constant of the weight file.

    Attributes:
        reader: the operator that reads it first.
        dtype: of its values as they are stored; of a quantized one, without its scales.
        elements: how many values.
        bytes: in the file, with scales.

    """

    reader: str
    dtype: str
    elements: int
    bytes: int


@dataclass(frozen=True)
class Package:
    """What was read from a package.

    Attributes:
        specification: version of the format.
        opset: of its function, for example "CoreML8".
        inputs, outputs: in the order of the graph.
        operators: operator to how many, without constants.
        results: dtype to how many operators give it, without constants and casts.
        float32: operators with a 32-bit result that are no casts, by their names.
        weights: in the order in which operators read them.
        unknown_sizes: operators with a result of which a size is not known before it runs.

    """

    specification: int
    opset: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    operators: dict[str, int]
    results: dict[str, int]
    float32: tuple[str, ...]
    weights: tuple[Weight, ...]
    unknown_sizes: int

    def stored(self) -> dict[str, int]:
        """Return dtype to bytes of the weight file."""
        found: Counter[str] = Counter()
        for weight in self.weights:
            found[weight.dtype] += weight.bytes
        return dict(sorted(found.items()))


def read_package(path: Path) -> Package:
    """Return what a package holds.

    Raises:
        InputError: it can't be read, or is no sound package with an ML program of one function.

    """
    model = path / "Data" / _root(path)
    with opened(model) as reader:
        try:
            if reader.size > _MOST_BYTES:
                raise DamagedError(f"its specification has {reader.size} bytes")
            return _package(Message(memoryview(reader.at(0, reader.size))), model.parent)
        except DamagedError as error:
            raise _unsound(path, str(error)) from None


def _root(path: Path) -> str:
    """Return the specification's place below `Data`, as the manifest says."""
    with opened(path / "Manifest.json") as reader:
        text = reader.at(0, min(reader.size, 1 << 20))
    try:
        manifest = json.loads(text)
        place = str(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unsound(path, f"its manifest names no model ({type(error).__name__}: {error})") from None
    if place.startswith("/") or ".." in Path(place).parts:
        raise _unsound(path, f"its manifest points outside, at {place!r}")
    return place


def _unsound(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is no sound Core ML package: {reason}.", hint="Copy or build it again.")


def _package(model: Message, folder: Path) -> Package:
    if not model.has(_ML_PROGRAM):
        raise DamagedError("it holds no ML program")
    functions = list(model.message(_ML_PROGRAM).mapped(2))
    if len(functions) != 1:
        raise DamagedError(f"it has {len(functions)} functions, where one is expected")
    function = functions[0][1]
    opset = function.text(2)
    blocks = dict(function.mapped(3))
    if opset not in blocks:
        raise DamagedError(f"it has no block for its operator set {opset!r}")
    description = model.message(2)
    counted = _Counted(folder)
    counted.block(blocks[opset])
    return Package(
        specification=model.number(1),
        opset=opset,
        inputs=tuple(_feature(each) for each in description.messages(1)),
        outputs=tuple(_feature(each) for each in description.messages(10)),
        operators=dict(counted.operators),
        results=dict(counted.results),
        float32=tuple(counted.float32),
        weights=tuple(counted.weights),
        unknown_sizes=counted.unknown_sizes,
    )


class _Counted:
    """Counts over a block and those inside its operators."""

    def __init__(self, folder: Path) -> None:
        self.operators: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.float32: list[str] = []
        self.weights: list[Weight] = []
        self.unknown_sizes = 0
        self._folder = folder
        self._unread: dict[str, Weight] = {}

    def block(self, block: Message) -> None:
        for operation in block.messages(3):
            kind = operation.text(1)
            bound = [each for _, argument in operation.mapped(2) for each in argument.messages(1)]
            values = [value for _, value in operation.mapped(5)] + [each.message(2) for each in bound if each.has(2)]
            held = [self._stored(value) for value in values if value.has(5)]
            held += [self._unread.pop(name) for name in (each.text(1) for each in bound) if name in self._unread]
            outputs = list(operation.messages(3))
            if outputs and (kind == "const" or kind.startswith("constexpr_")):
                if held:
                    self._unread[outputs[0].text(1)] = _joined(held)
            else:
                self.weights += [Weight(kind, each.dtype, each.elements, each.bytes) for each in held]
            for inner in operation.messages(4):
                self.block(inner)
            if kind != "const" and outputs:
                self._count(kind, outputs)

    def _count(self, kind: str, outputs: list[Message]) -> None:
        self.operators[kind] += 1
        types = [output.message(2).message(1) for output in outputs]
        self.unknown_sizes += any(dimension.has(2) for each in types for dimension in each.messages(3))
        if kind == "cast" or kind.startswith("constexpr_"):
            return
        names = [_dtype(each) for each in types]
        self.results[names[0]] += 1
        if any(name in ("float32", "float64") for name in names):
            self.float32.append(f"{kind} {outputs[0].text(1)}")

    def _stored(self, value: Message) -> Weight:
        """Return a constant of the weight file, after checking that the file has it."""
        blob, kind = value.message(5), value.message(2).message(1)
        file = blob.text(1).removeprefix("@model_path/")
        if file.startswith("/") or ".." in Path(file).parts:
            raise DamagedError(f"its weights lie outside, at {file!r}")
        elements = math.prod(dimension.message(1).number(1) for dimension in kind.messages(3))
        size = (elements * _bits(_dtype(kind)) + 7) // 8
        with opened(self._folder / file) as reader:
            _ensure_blob(reader, blob.number(2), size)
        return Weight("", _dtype(kind), elements, size)


def _joined(held: list[Weight]) -> Weight:
    """Return a weight and its scales as one."""
    largest = max(held, key=lambda each: each.elements)
    return Weight("", largest.dtype, largest.elements, sum(each.bytes for each in held))


def _dtype(kind: Message) -> str:
    return _TYPES.get(kind.number(1), f"type {kind.number(1)}")


def _ensure_blob(reader: Reader, offset: int, size: int) -> None:
    """Check the head of a weight: a mark, its type, its size in bytes, and where they are."""
    mark, _ = reader.unpack("II", offset)
    stored, where = reader.unpack("QQ", offset + 8)
    if mark != _BLOB:
        raise DamagedError(f"no weight begins at byte {offset} of its weights")
    if stored != size:
        raise DamagedError(f"a weight has {stored} bytes where its shape asks for {size}")
    if where + stored > reader.size:
        raise DamagedError(f"its weights end at byte {reader.size}, and one should go on to {where + stored}")


def _bits(dtype: str) -> int:
    """Return how many bits a value takes: the number at the end of its type's name, but for a few."""
    if dtype in _BITS or not dtype[-1:].isdigit():
        return _BITS.get(dtype, 0)
    return int(dtype[len(dtype.rstrip("0123456789")) :])


def _feature(feature: Message) -> Feature:
    array = feature.message(3).message(5)
    default = array.numbers(1)
    enumerated = [shape.numbers(1) for shape in array.message(21).messages(1)]
    return Feature(
        feature.text(1),
        _FEATURES.get(array.number(2), f"type {array.number(2)}"),
        tuple(dict.fromkeys([default, *enumerated])),
        ranged=array.has(31),
    )
