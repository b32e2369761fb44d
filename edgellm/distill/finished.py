"""Finished: a trained student becomes a folder, at once or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

from edgellm.core import strict
from edgellm.core.distill import Distilled, DistilledEncoder
from edgellm.errors import UsageError
from edgellm.runtime.machine import machine
from edgellm.stages.cache import versions
from edgellm.stages.put import check_parent, put
from edgellm.training.checkpoints import IDENTITY
from edgellm.training.fit import LOGS

FACTS = "training.json"
"""How a model was trained, beside it, with the files that belong to it."""


def working(out: Path) -> Path:
    """Return the folder beside `out` that a training works in."""
    out = out.absolute()
    return out.with_name(f"{out.name}.training")


def check_out(out: Path) -> None:
    """Check that a trained model may be written to `out`: a new folder, an empty one, or such a model to replace.

    Raises:
        UsageError: something else is there; it is never emptied.

    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} exists and is no folder.", hint="Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not _is_finished(out):
        raise UsageError(
            f"{out} holds something that was not written by a distillation, or more than that, and is left alone.",
            hint="Choose another --out.",
        )
    check_parent(out)
    work = working(out)
    known = (work / "checkpoints" / IDENTITY).is_file() or any(work.glob("start-*"))
    # A training that diverged leaves its curves alone.
    if work.exists() and not known and any(path.name != LOGS for path in work.iterdir()):
        raise UsageError(
            f"{work} is where a training works, and holds something else, which is left alone.",
            hint="Choose another --out, or move that folder.",
        )


def write(result: Distilled | DistilledEncoder, save: Callable[[Path], None], licence: str | None, out: Path) -> None:
    """Write a student as `save_pretrained` does, with its tokenizer and the facts of its training, and end the training.

    Args:
        result: the facts.
        save: writes model and tokenizer into a folder.
        licence: of the teacher; the student is a work made of it.
        out: the place.

    Raises:
        OSError: the disk is full or can't be written to; `out` is as it was.

    """
    work = working(out)
    with tempfile.TemporaryDirectory(dir=work) as place:
        folder = Path(place)
        save(folder)
        if (work / LOGS).is_dir():
            shutil.copytree(work / LOGS, folder / LOGS)
        if licence is not None:
            card = f"---\nlicense: {licence}\n---\n\n# {out.name}\n\nDistilled from {result.teacher} by edgellm.\n"
            (folder / "README.md").write_text(card, encoding="utf-8")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        facts = {
            **cast("dict[str, object]", strict.plain(result)), "folder": out.name, "machine": str(machine()),
            "tools": versions(("torch", "transformers", "accelerate")), "files": [*files, FACTS],
        }  # fmt: skip
        (folder / FACTS).write_text(
            json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        put(folder, out, check=check_out)
    shutil.rmtree(work)


def _is_finished(folder: Path) -> bool:
    """Tell whether a folder holds a trained model and nothing else; whatever else is in it would be lost."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        listed = set(facts["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return all(path.as_posix() in listed for path in found)
