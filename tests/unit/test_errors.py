"""The exception tree: kinds, exit codes, and the way across a process boundary."""

from __future__ import annotations

import copy
import json

import pytest

from edgellm.errors import KINDS, EdgellmError, InputError, UsageError, from_wire, to_wire, unknown


def test_every_kind_has_an_exit_code_of_its_own_which_no_shell_uses() -> None:
    codes = [kind.exit_code for kind in KINDS.values()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 126, 127, 130} & set(codes)
    assert set(EdgellmError.__subclasses__()) <= set(KINDS.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_error_crosses_a_pipe_unchanged(kind: type[EdgellmError]) -> None:
    error = kind("It broke: ü \ud800.", hint="Mend it.")
    back = from_wire(json.loads(json.dumps(to_wire(error))))
    assert (type(back), back.args, back.hint) == (kind, error.args, "Mend it.")
    assert str(back) == "It broke: ü \ud800. Mend it."


def test_an_error_keeps_its_hint_when_it_is_copied_or_pickled() -> None:
    # copy goes through __reduce__, as pickling does
    assert str(copy.copy(InputError("no", hint="yes"))) == "no yes"


@pytest.mark.parametrize(
    "wire", [{}, {"kind": "FutureError"}, {"message": "x"}, {"kind": "SystemExit", "message": "x"}]
)
def test_a_wire_error_of_an_unknown_kind_is_the_base_class(wire: dict[str, str]) -> None:
    assert type(from_wire(wire)) is EdgellmError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("andriod-arm64", "android-arm64"), ("linux_arm64", "linux-arm64"), ("android", "android-arm64"), ("zzz", None)],
)
def test_unknown_names_the_nearest_and_the_sorted_choices(name: str, nearest: str | None) -> None:
    error = unknown("target", name, ["linux-arm64", "android-arm64"], hint="See X.")
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"No target '{name}'.")
    assert str(error).endswith("Choices: android-arm64, linux-arm64. See X.")
    assert ("Did you mean" in str(error)) == (nearest is not None)
    if nearest:
        assert f"Did you mean '{nearest}'?" in str(error)


def test_unknown_without_choices_says_so() -> None:
    assert "Choices: none." in str(unknown("format", "onnx", []))
