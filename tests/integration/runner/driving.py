"""Drives a built runner as a program and as a worker, and changes bundles so that it has something to refuse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgellm.core.manifest import Artifact
from tests.tiny import reseal

TIMEOUT = 120
EXIT = {"UsageError": 2, "InputError": 3, "GateError": 5, "BundleError": 6, "DeviceError": 7}


def run(program: Path, *args: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *args], input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )


@contextmanager
def worker(program: Path, bundle: Path | None = None) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """Yield what sends a line and returns the reply; at the end nothing else may have been printed."""
    with subprocess.Popen(
        [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: bytes) -> dict[str, Any]:
            process.stdin.write(line + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            reply = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            assert isinstance(reply, dict)
            return reply

        if bundle is not None:
            request = {"op": "open", "bundle": str(bundle), "artifact": "executorch", "threads": 1}
            assert "error" not in ask(json.dumps(request).encode())
        yield ask
        out, _ = process.communicate(timeout=20)
        assert out == b""
        assert process.returncode == 0


def feeds_line(op: str, **changed: object) -> bytes:
    feeds = {"input_ids": [[101, 7592, 102]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]}
    return json.dumps({"op": op, "feeds": {**feeds, **changed}, "runs": 1}).encode()


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def entry(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in manifest["files"] if item["path"] == name)


def seal(folder: Path, artifact: Artifact) -> None:
    """Make the hashes right; `reseal` wants the files of every artifact."""
    edit(folder, lambda m: m.update(artifacts=[item for item in m["artifacts"] if item["id"] == artifact.id]))
    reseal(folder)
