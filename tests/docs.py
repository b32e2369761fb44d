"""Runs the commands of a document and compares, or pastes, what they print.

A block fenced with ```console holds commands after `$ ` and their standard output, one fenced with ```console emulator
those that need emulated devices, which run in `make test-arm`. Numbers differ from run to run, so
they are compared as `#`; words, names and the shape of tables are compared as they are.

    python -m tests.docs README.md samples/x/README.md      # run and paste, with the bundle in build/demo

The commands of a document run in a folder of their own (`lay_out`): what an earlier run left does not change what they
print, and what they write does not reach the checkout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_READ = ("samples", "targets")
"""Folders of the checkout that commands of documents read."""
_BLOCK = re.compile(r"^```console( emulator)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a document, as a line and as it is shown there, and the output printed below it."""

    line: str
    shown: str
    output: str


def commands(text: str, *, emulator: bool | None = None) -> list[Command]:
    """Return the commands of all console blocks, in order; or of those with, or without, emulated devices alone."""
    found = []
    for kind, block in _BLOCK.findall(text):
        if emulator is not None and bool(kind) != emulator:
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            shown = line
            while line.endswith("\\"):
                more, _, output = output.partition("\n")
                line, shown = f"{line[:-1].rstrip()} {more.removeprefix('>').strip()}", f"{shown}\n{more}"
            found.append(Command(line, shown, output.strip("\n")))
    return found


def run(line: str, folder: Path) -> str:
    """Return what a command prints on standard output.

    Raises:
        AssertionError: it failed.
    """
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
    return done.stdout.strip("\n")


def shape(output: str) -> str:
    """Return output without what differs between runs and machines: numbers, paths, the CPU, column widths."""
    without_machine = re.sub(r"^.*governor .*load .*$", "MACHINE", output, flags=re.MULTILINE)
    without_paths = re.sub(r"(/[\w.+-]+)+/(?=[\w.-])", "", without_machine)
    return re.sub(r"[ \t]+", " ", re.sub(r"-?\d[\d.,]*", "#", without_paths))


def lay_out(folder: Path, bundle: Path, root: Path = ROOT) -> None:
    """Fill an empty folder with what a reader of a document has: the bundle as it was built, and files of the checkout.

    They are copies: no command reaches the original through one, and a build replaces no link.
    """
    shutil.copytree(bundle, folder / "build" / "demo", ignore=shutil.ignore_patterns("reports"))
    for name in _READ:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def paste(document: Path, bundle: Path, root: Path = ROOT) -> None:
    """Run a document's commands and write their output into it; a command that fails leaves it as it was."""
    text = document.read_text(encoding="utf-8")
    end = 0  # of what was pasted: a command may stand in a document twice
    with tempfile.TemporaryDirectory(prefix="edgellm-docs-") as work:
        lay_out(Path(work), bundle, root)
        for command in commands(text):
            output = run(command.line, Path(work))
            old = f"$ {command.shown}\n" + (f"{command.output}\n" if command.output else "")
            start = text.find(old, end)
            assert start >= 0, f"{document}: `{command.line}` is shown in another way"
            new = f"$ {command.shown}\n" + (f"{output}\n" if output else "")
            text, end = text[:start] + new + text[start + len(old) :], start + len(new)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        paste(ROOT / name, ROOT / "build" / "demo")
