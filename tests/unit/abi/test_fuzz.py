"""Damaged files: whatever bytes are changed or missing, the answer is findings or one clear line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.abi.examine import examine
from edgellm.errors import InputError
from tests.tiny import TinyModel
from tests.unit.abi.files import pte_bytes, tflite_bytes, write_elf


def _elf() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = write_elf(
            Path(folder) / "x", interpreter="/lib/ld-linux-aarch64.so.1", needed=("libc.so.6", "libm.so.6"),
            runpath="$ORIGIN:/lib", android_api=24,
            versions=(("libc.so.6", "GLIBC_2.17", "read"), ("libm.so.6", "GLIBC_2.29", "exp")),
        )  # fmt: skip
        return path.read_bytes()


SOUND = {
    "x.so": _elf(),
    "x.onnx": TinyModel.random(8, 4, 3, True).onnx("logits"),
    "x.tflite": tflite_bytes([(9, 12), (25, 2), (32, 1, "Custom")]),
    "x.pte": pte_bytes([("aten::add", "out"), ("aten::gelu", "out")]),
}


def ends_well(folder: Path, name: str, data: bytes) -> str:
    """Examine the bytes, and return what was wrong with the whole file."""
    (folder / name).write_bytes(data)
    try:
        examine(folder / name, target="raspberry-pi-5")
    except InputError as error:
        reason = str(error)
    else:
        reason = ""
    assert "\n" not in reason
    return reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", SOUND)
def test_every_truncation_is_an_answer(folder: Path, name: str) -> None:
    data = SOUND[name]
    for length in range(0, len(data), 1 if len(data) < 2000 else 7):
        ends_well(folder, name, data[:length])


@pytest.mark.parametrize("name", SOUND)
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_an_answer(folder: Path, name: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(SOUND[name])
    for where, value in changes:
        where %= len(data)
        data[where : where + len(value)] = value
    ends_well(folder, name, bytes(data))


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize(
    "value", [b"\xff" * 4, b"\x00" * 4, b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\x04\x00\x00\x00"]
)
def test_every_number_can_be_huge_or_nothing(folder: Path, name: str, value: bytes) -> None:
    data = SOUND[name]
    for where in range(0, len(data), 4):
        ends_well(folder, name, data[:where] + value + data[where + 4 :])


@pytest.mark.parametrize("name", SOUND)
@given(data=st.binary(min_size=1, max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_after_the_magic_are_an_answer(folder: Path, name: str, data: bytes) -> None:
    ends_well(folder, name, SOUND[name][:8] + data)


def test_offsets_that_lead_in_circles_come_to_an_end(folder: Path) -> None:
    """A list of a million operator codes that are one and the same: more to read than any real file has."""
    count = 1_000_000
    data = bytearray(tflite_bytes([(9, 12)]))
    data += bytes(-len(data) % 4)
    model = int.from_bytes(data[:4], "little")
    slots = model - int.from_bytes(data[model : model + 4], "little", signed=True)
    codes = model + int.from_bytes(data[slots + 6 : slots + 8], "little")  # field 1 of the model
    vector = codes + int.from_bytes(data[codes : codes + 4], "little")
    code = vector + 4 + int.from_bytes(data[vector + 4 : vector + 8], "little")
    data[codes : codes + 4] = (len(data) - codes).to_bytes(4, "little")
    behind = len(data) + 4 + 4 * count  # a copy of the file, so that offsets lead forward
    copy = bytes(data)
    data += count.to_bytes(4, "little")
    data += b"".join((behind + code - (len(copy) + 4 + 4 * i)).to_bytes(4, "little") for i in range(count))
    reason = ends_well(folder, "x.tflite", bytes(data + copy))
    assert "its offsets lead round and round" in reason
