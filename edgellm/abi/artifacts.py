"""Does an artifact fit a target? Its format, its delegate, and what its file asks of the target's oldest runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellm.abi import FileFacts, Finding, damage
from edgellm.abi.coreml import examine_coreml
from edgellm.abi.executorch import examine_executorch
from edgellm.abi.onnx import examine_onnx
from edgellm.abi.qnn import examine_qnn
from edgellm.abi.tflite import examine_tflite
from edgellm.core.manifest import Artifact
from edgellm.core.target import Target
from edgellm.errors import InputError

_EXAMINERS: dict[str, Callable[[Path, str, Target | None], tuple[FileFacts, list[Finding]]]] = {
    "executorch": examine_executorch,
    "onnx": examine_onnx,
    "mlpackage": examine_coreml,
    "qnn": examine_qnn,
    "tflite": examine_tflite,
}


def examined(artifact: Artifact) -> tuple[str, ...]:
    """Return what of an artifact is examined, relative to the bundle: its files, or the folder that they are in."""
    if artifact.format == "mlpackage":
        return (artifact.file.rpartition("/")[0],)
    return artifact.files


def examine_artifact(path: Path, artifact_format: str, target: Target) -> list[Finding]:
    """Return the findings about one artifact; a damaged file is a finding too. Nothing is loaded or run.

    Args:
        path: its main file.
        artifact_format: "executorch", "onnx", "qnn" or "tflite".
        target: what it has to fit.

    Raises:
        MissingDependencyError: onnx is not installed, and the artifact is an ONNX file.

    """
    return artifact_facts(path, artifact_format, path.name, target)[1]


def artifact_facts(
    path: Path, artifact_format: str, subject: str, target: Target | None
) -> tuple[FileFacts | None, list[Finding]]:
    """Return facts and findings of one artifact; no facts where it is damaged, which is a finding."""
    try:
        facts, findings = _EXAMINERS[artifact_format](path, subject, target)
    except InputError as error:
        return None, [damage(subject, error)]
    if target is not None and artifact_format not in target.formats:
        takes = ", ".join(target.formats)
        hint = "Build it in one of those, or add the format to the target."
        findings.insert(
            0, Finding(subject, "format", "error", f"{artifact_format}; {target.name} takes {takes}.", hint)
        )
    return facts, findings
