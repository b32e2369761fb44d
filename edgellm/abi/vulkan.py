"""What ExecuTorch's Vulkan delegate was given: operators and types of tensors, read from the blob that it compiled.

After `backends/vulkan/serialization/schema.fbs` and `vulkan_graph_serialize.py` of pytorch/executorch: a header of 30
bytes, a flatbuffer, and the constants.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgellm.abi.flatbuffer import identifier, root
from edgellm.abi.reader import DamagedError, opened
from edgellm.errors import InputError

_MAGIC = b"VH00"
_IDENTIFIER = "VK00"
_TENSOR = 5
"""Of the union of values."""

_TYPES = {0: "bool", 1: "uint8", 2: "int8", 3: "int32", 4: "float16", 5: "float32", 6: "float64", 7: "int64"}


@dataclass(frozen=True)
class VulkanGraph:
    """One partition.

    Attributes:
        operators: name to how many, without the copies of constants to the GPU.
        tensors: type to how many.

    """

    operators: Counter[str]
    tensors: dict[str, int]


def read_graph(blob: bytes) -> VulkanGraph:
    """Return what a partition holds.

    Raises:
        InputError: the bytes are no sound Vulkan graph.

    """
    if len(blob) < 30 or blob[4:8] != _MAGIC:
        raise InputError("The partition is no Vulkan graph: its head is not Vulkan's.", hint="Build it again.")
    offset, size = struct.unpack_from("<II", blob, 10)
    with TemporaryDirectory() as folder:  # the reader reads files, within bounds
        path = Path(folder) / "graph"
        path.write_bytes(blob[offset : offset + size])
        with opened(path) as reader:
            try:
                if identifier(reader) != _IDENTIFIER:
                    raise DamagedError(f"it has {identifier(reader)!r} where {_IDENTIFIER!r} belongs")
                graph = root(reader)
                operators = Counter(call.text(1) for call in graph.tables(1))
                types: Counter[str] = Counter()
                for value in graph.tables(2):
                    tensor = value.table(1) if value.scalar(0, "B") == _TENSOR else None
                    if tensor is not None:
                        number = tensor.scalar(0, "b")
                        types[_TYPES.get(number, f"type {number}")] += 1
            except DamagedError as error:
                raise InputError(f"The partition is no sound Vulkan graph: {error}.", hint="Build it again.") from None
    operators.pop("et_vk.prepack.default", None)
    return VulkanGraph(operators, dict(types))
