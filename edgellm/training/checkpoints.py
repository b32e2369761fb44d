"""Checkpoints: which of them a training goes on from, and what they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from edgellm.errors import UsageError

IDENTITY = "run.json"
"""What checkpoints belong to, in their folder."""

CURVE = "curve.json"
"""In a checkpoint: the sum of the losses since the curve's last point, and the step of that point."""

_STATE = "trainer_state.json"
"""What the Trainer writes last into a checkpoint."""


def resumable(checkpoints: Path, identity: Mapping[str, object], *, keep: bool = False) -> Path | None:
    """Return the last whole checkpoint of this very training; what a kill left half-written is deleted.

    Args:
        checkpoints: their folder; it is made.
        identity: what has to be the same, as JSON.
        keep: whether nothing is written or deleted: another process has done that.

    Raises:
        UsageError: they belong to another training.

    """
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    note = checkpoints / IDENTITY
    if not note.is_file():
        checkpoints.mkdir(parents=True, exist_ok=True)
        write(note, {"sha256": digest})
    elif _read(note).get("sha256") != digest:
        raise UsageError(
            f"{checkpoints} is of a training with other options or data.",
            hint="Give the same ones to go on with it, or name another --out, or delete that folder.",
        )
    found = {
        int(number): path
        for path in checkpoints.glob("checkpoint-*")
        if (number := path.name.partition("-")[2]).isdigit()
    }
    for _, path in sorted(found.items(), reverse=True):
        if state := _read(path / _STATE):
            _point_at_best(checkpoints, path / _STATE, state, keep=keep)
            return path
        if not keep:
            shutil.rmtree(path)
    return None


def _point_at_best(checkpoints: Path, place: Path, state: dict[str, object], *, keep: bool) -> None:
    """Make the state name the best checkpoint where it lies now: the folder may have been moved.

    Raises:
        UsageError: it is gone, so that the best weights could not be kept.

    """
    named = state.get("best_model_checkpoint")
    if not isinstance(named, str):
        return
    best = checkpoints / Path(named).name
    if not best.is_dir():
        raise UsageError(
            f"{checkpoints} lacks {best.name}, whose weights are the best so far.",
            hint="Delete that folder to begin anew.",
        )
    if str(best) != named and not keep:
        write(place, {**state, "best_model_checkpoint": str(best)})


def write(path: Path, facts: Mapping[str, object]) -> None:
    """Write JSON, at once or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, object]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def pending(checkpoint: Path) -> tuple[float, int]:
    """Return the sum of the losses since the curve's last point when a checkpoint was written, and the step of that point.

    Where a kill came before it was noted, the sum is 0, from the checkpoint on.
    """
    facts = _read(checkpoint / CURVE)
    loss, since = facts.get("loss", 0.0), facts.get("since", int(checkpoint.name.rpartition("-")[2]))
    assert isinstance(loss, float)
    assert isinstance(since, int)
    return loss, since
