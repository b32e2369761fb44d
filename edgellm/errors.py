"""Every error a user can meet, drawn as a tree.

    EdgellmError                 exit code 70, an error inside edgellm
    ├── UsageError               2   an option, or a name that does not exist
    ├── InputError               3   a model, a text, or a calibration or evaluation file
    ├── MissingDependencyError   4   a package that is not installed, or does not import
    ├── GateError                5   an artifact that disagrees with the fp32 model
    ├── BundleError              6   a bundle whose manifest, paths or hashes are wrong
    └── DeviceError              7   the machine: a worker that died, no room on the disk, no memory

A message says what failed and the likely cause; `hint` says what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgellmError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        exit_code: what the command line exits with.
        hint: one sentence that says what to do next, or an empty string.

    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} {self.hint}" if self.hint else message

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.hint)


class UsageError(EdgellmError):
    """An option is wrong, or names something that does not exist."""

    exit_code = 2


class InputError(EdgellmError):
    """A model, a text or a data file can't be used."""

    exit_code = 3


class MissingDependencyError(EdgellmError):
    """A package that this step needs is not installed, or does not import."""

    exit_code = 4


class GateError(EdgellmError):
    """An artifact does not give the answers of the fp32 model."""

    exit_code = 5


class BundleError(EdgellmError):
    """A bundle is damaged, was altered, or has a schema this version does not read."""

    exit_code = 6


class DeviceError(EdgellmError):
    """The machine failed: a worker died, the disk is full, memory ran out."""

    exit_code = 7


KINDS: dict[str, type[EdgellmError]] = {
    cls.__name__: cls
    for cls in (
        EdgellmError,
        UsageError,
        InputError,
        MissingDependencyError,
        GateError,
        BundleError,
        DeviceError,
    )
}
"""Class by name: how an error crosses a process boundary (see `to_wire`, `from_wire`)."""


def to_wire(error: EdgellmError) -> dict[str, str]:
    """Return the JSON form of an error; `from_wire` makes it an exception again."""
    return {"kind": type(error).__name__, "message": str(error.args[0]), "hint": error.hint}


def from_wire(data: dict[str, str]) -> EdgellmError:
    """Return the exception that `to_wire` described; an unknown kind becomes the base class."""
    kind = KINDS.get(data.get("kind", ""), EdgellmError)
    return kind(data.get("message", "an error without a message"), hint=data.get("hint", ""))


def unknown(kind: str, name: str, choices: Iterable[str], *, hint: str = "") -> UsageError:
    """Return the error for a name that is not among `choices`, with the nearest match first.

    Args:
        kind: what the name should have been: "target", "format", ...
        name: what was asked for.
        choices: what exists.
        hint: what lists or adds more, appended to the choices.

    """
    ordered = sorted(choices)
    near = difflib.get_close_matches(name, ordered, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(ordered) or "none"
    return UsageError(
        f"No {kind} '{name}'.{guess} Choices: {listed}.",
        hint=hint,
    )


def _rebuild(cls: type[EdgellmError], args: tuple[str, ...], hint: str) -> EdgellmError:
    return cls(*args, hint=hint)


def first_line(error: BaseException) -> str:
    """Return the first line of what another library's exception says, short enough to be part of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
