"""The ABI doctor: does a file fit a target? Facts are read from the bytes; nothing is loaded, run or changed.

Native files, TFLite and ExecuTorch files are read with `struct` alone, so a device with the base install can examine
what it got; ONNX files need the onnx package. `edgellm.abi.artifacts.examine_artifact` looks at one artifact,
`edgellm.abi.examine.examine` at a file, a folder or a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgellm.errors import InputError

Level = Literal["ok", "warning", "error"]
Fact = str | int | bool | None | tuple[str, ...]

KINDS = {
    "native": "native file",
    "onnx": "ONNX model",
    "mlpackage": "Core ML package",
    "qnn": "QNN context binary",
    "tflite": "TFLite model",
    "executorch": "ExecuTorch program",
}
"""Kind of a file that can be examined, and what people call it."""


@dataclass(frozen=True)
class Finding:
    """One rule, applied to one file.

    Attributes:
        subject: the file, relative to what was examined, or "bundle".
        rule: what was looked at: "architecture", "glibc", "opset", ...
        level: "error" where the target can't use the file, "warning" where that depends on the device.
        message: what was found, and why it matters.
        hint: what to do; empty where all is well.

    """

    subject: str
    rule: str
    level: Level
    message: str
    hint: str = ""


@dataclass(frozen=True)
class FileFacts:
    """What was read from one file.

    Attributes:
        subject: the file, as in its findings.
        kind: a key of `KINDS`.
        values: fact by name, in reading order.

    """

    subject: str
    kind: str
    values: dict[str, Fact]


@dataclass(frozen=True)
class Examination:
    """What an examination found.

    Attributes:
        path: what was examined.
        target: what it was compared with; None where only facts were asked for.
        ok: no finding is an error.
        facts: per file.
        findings: in the order of `facts`.

    """

    path: str
    target: str | None
    ok: bool
    facts: tuple[FileFacts, ...]
    findings: tuple[Finding, ...]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return those findings that keep the target from using the file."""
    return [finding for finding in findings if finding.level == "error"]


def damage(subject: str, error: InputError) -> Finding:
    """Return the finding that a file can't be read, for where others are looked at beside it."""
    return Finding(subject, "readable", "error", str(error.args[0]), error.hint)
