"""`python -m edgellm.abi._context_binary FILE`: what a Qualcomm context binary says of itself, as a line of JSON.

A process of its own, because the vendor's reader crashes on damaged files. It is libQnnSystem of the onnxruntime-qnn package,
called as QnnSystemInterface.h and QnnSystemContext.h of Qualcomm's SDK declare it.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("patch", ctypes.c_uint32))


class _Interface(ctypes.Structure):
    """QnnSystemInterface_t, up to what is called here."""

    _fields_ = (
        ("backend_id", ctypes.c_uint32),
        ("provider_name", ctypes.c_char_p),
        ("version", _Version),
        ("create", ctypes.c_void_p),
        ("binary_info", ctypes.c_void_p),
    )


class _BinaryInfo(ctypes.Structure):
    """QnnSystemContext_BinaryInfo_t with its third version, the first that names the SoC."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("union", ctypes.c_uint32),  # which is aligned as its pointers are
        ("backend_id", ctypes.c_uint32),
        ("build_id", ctypes.c_char_p),
        ("core_api", _Version),
        ("backend_api", _Version),
        ("soc_version", ctypes.c_char_p),
        ("blob_version", _Version),
        ("blob_size", ctypes.c_uint64),
        ("tensor_count", ctypes.c_uint32),
        ("tensors", ctypes.c_void_p),
        ("graph_count", ctypes.c_uint32),
        ("graphs", ctypes.c_void_p),
        ("platform_info", ctypes.c_void_p),
        ("metadata_size", ctypes.c_uint32),
        ("metadata", ctypes.c_void_p),
        ("soc_model", ctypes.c_uint32),
    )


_THIRD = 3


def read(binary: bytes) -> dict[str, object]:
    """Return the SDK that wrote a context binary, its SoC and its number of graphs.

    Raises:
        ValueError: it is none, or one of a version that does not name its SoC.

    """
    import onnxruntime_qnn

    library = ctypes.CDLL(str(Path(onnxruntime_qnn.__file__).parent / "libQnnSystem.so"))
    found, count = ctypes.POINTER(ctypes.POINTER(_Interface))(), ctypes.c_uint32()
    if library.QnnSystemInterface_getProviders(ctypes.byref(found), ctypes.byref(count)) or not count.value:
        raise ValueError("libQnnSystem offers no interface")
    interface = found[0].contents
    handle, info, size = ctypes.c_void_p(), ctypes.POINTER(_BinaryInfo)(), ctypes.c_uint64()
    create = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(interface.create)
    describe = ctypes.CFUNCTYPE(
        ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p
    )(interface.binary_info)
    if create(ctypes.byref(handle)):
        raise ValueError("libQnnSystem has no context")
    if describe(handle, binary, len(binary), ctypes.byref(info), ctypes.byref(size)) or not info:
        raise ValueError("it is no context binary of the QNN SDK")
    said = info.contents
    if said.version != _THIRD:
        raise ValueError(f"its description has version {said.version}, which names no SoC")
    return {"sdk": said.build_id.decode(), "soc_model": said.soc_model, "graphs": said.graph_count}


def _binary(path: str) -> bytes:
    """Return what the EPContext node of an ONNX file holds."""
    import onnx

    for node in onnx.load(path).graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_cache_context":
                return bytes(attribute.s)
    raise ValueError("it holds no context binary")


if __name__ == "__main__":
    try:
        answer = read(_binary(sys.argv[1]))
    except ValueError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))
