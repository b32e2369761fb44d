"""Does a QNN context binary fit a target? One node that the NPU runs whole, compiled for the target's own SoC."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgellm.abi import FileFacts, Finding, Level
from edgellm.core.target import Target
from edgellm.errors import InputError, MissingDependencyError

NODE = "EPContext"
"""Operator of com.microsoft that holds a compiled graph."""

_SECONDS = 120

_Rule = tuple[str, Level, str, str]


def examine_qnn(path: Path, subject: str, target: Target | None) -> tuple[FileFacts, list[Finding]]:
    """Return facts and findings of one ONNX file around a context binary.

    Raises:
        InputError: it can't be read, is no such file, or is damaged.
        MissingDependencyError: the onnx or the onnxruntime-qnn package is not installed.

    """
    from edgellm.abi.onnx import load_onnx

    operators = [node.op_type for node in load_onnx(path).graph.node]
    if NODE not in operators:
        raise InputError(f"{path} holds no context binary.", hint="Build it again.")
    said = _said(path)
    values = {"operators": len(operators), "SoC": said["soc_model"], "QNN SDK": said["sdk"], "graphs": said["graphs"]}
    rules = [*_rules(operators, int(str(said["soc_model"])), target)]
    return FileFacts(subject, "qnn", values), [Finding(subject, *rule) for rule in rules]  # type: ignore[arg-type]


def _rules(operators: list[str], soc: int, target: Target | None) -> Iterator[_Rule]:
    outside = sorted({name for name in operators if name != NODE})
    if outside:
        yield "delegate", "error", f"{', '.join(outside)} stayed outside the NPU's graph.", "Build it again."
    else:
        yield "delegate", "ok", "the NPU runs the whole graph.", ""
    if target is None or target.htp is None:
        return
    if soc != target.htp.soc_model:
        yield (
            "SoC", "error",
            f"compiled for SoC {soc}; {target.name} is SoC {target.htp.soc_model}, which refuses it when it loads, or computes "
            "something else.",
            f"Build it with --target {target.name}.",
        )  # fmt: skip
    else:
        yield "SoC", "ok", f"compiled for SoC {soc}, as {target.name} is.", ""


def _said(path: Path) -> dict[str, int | str]:
    """Return what the context binary says of itself.

    Raises:
        InputError: it is damaged.
        MissingDependencyError: its reader is not installed.

    """
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise MissingDependencyError(
            "Examining a QNN context binary needs onnxruntime-qnn.", hint="Install it with: pip install 'edgellm[qnn]'"
        )
    command = [sys.executable, "-P", "-m", "edgellm.abi._context_binary", str(path.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(
            f"The context binary in {path} is damaged: its reader did not end in {_SECONDS} s.", hint="Build it again."
        ) from None
    if done.returncode < 0:
        raise InputError(f"The context binary in {path} is damaged: its reader crashed.", hint="Build it again.")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"The context binary in {path} can't be read here: {reason}.", hint="See 'edgellm doctor'.")
    said: dict[str, int | str] = json.loads(done.stdout)
    if "error" in said:
        raise InputError(f"The context binary in {path} can't be read: {said['error']}.", hint="Build it again.")
    return said
