"""Runs the command line: in a process of its own as a user does, or in this one where that proves as much."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgellm.cli import main as entry

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


def spawn(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Done:
    """Run `python -m edgellm` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edgellm", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=120, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Done:
    """Run the entry point that the `edgellm` script calls, here."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            entry.main()
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return Done(caught.value.code, out, err)
