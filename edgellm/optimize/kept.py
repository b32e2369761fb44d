"""Kept: where an optimization keeps models, bundles and figures, named after what they were made of."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellm.core import strict
from edgellm.core.optimize import Measured, Move
from edgellm.optimize.recipe import Setup, calibration
from edgellm.runtime.bundle import sha256_file
from edgellm.runtime.machine import cpu_identity

STEPS = "steps"
"""Folder of all steps that were ever made with this `out`."""

_SECONDS = "seconds.json"


class Kept:
    """The folders of one optimization.

    A step's folder is named after the baseline, the data, the seed, and every move that led to it; a bundle and its figures
    also after how it is built and asked. What another recipe made stays, and is used again when that recipe returns.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        recipe = setup.recipe
        self._learned = {
            "model": setup.source.sha256, "task": setup.source.task, "train": sha256_file(Path(recipe.data.train)),
            "dev": sha256_file(Path(recipe.data.dev)), "seed": recipe.seed, "max_tokens": setup.plan.max_tokens,
            "pooling": setup.source.options.pooling, "teacher": None if recipe.teacher is None else _folder(Path(recipe.teacher)),
        }  # fmt: skip

    def step(self, move: Move, begins: Path | None) -> Path:
        """Return the folder of a move, which is there afterwards."""
        if begins is None:
            name = f"baseline-{_digest(self._learned)}"
        else:
            did = {name: value for name, value in vars(move).items() if name not in ("begins", "rung")}
            name = f"{move.kind}-{_digest({'of': self._origin(begins), **did})}"
        folder = self._setup.out / STEPS / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def bundle(self, scheme: str, step: Path | None = None) -> Path:
        """Return the folder of a bundle: of a step, or of the baseline."""
        home = self.step(Move("baseline"), None) if step is None else step
        return home / f"{scheme}-{self._built(scheme)}"

    def measured(self, step: Path, scheme: str) -> Measured | None:
        """Return what was measured of a step's artifact; None where it was not."""
        path = self._figures(step, scheme)
        if not path.is_file():
            return None
        return strict.read(Measured, json.loads(path.read_text(encoding="utf-8")), str(path))

    def keep(self, step: Path, found: Measured) -> None:
        """Keep what was measured."""
        _write(self._figures(step, found.scheme), strict.plain(found))

    @contextmanager
    def timed(self, step: Path) -> Iterator[None]:
        """Add the time of a block to a step's."""
        start, before = time.perf_counter(), self.seconds(step)
        try:
            yield
        finally:
            _write(step / _SECONDS, round(before + time.perf_counter() - start, 1))

    def seconds(self, step: Path) -> float:
        """Return how long a step took, in all runs."""
        path = step / _SECONDS
        return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0

    def _origin(self, model: Path) -> str:
        """Return the name of the step that a model is of; that of the baseline's, which lies elsewhere."""
        steps = self._setup.out / STEPS
        return (
            model.relative_to(steps).parts[0] if model.is_relative_to(steps) else self.step(Move("baseline"), None).name
        )

    def _built(self, scheme: str) -> str:
        plan, recipe = self._setup.plan, self._setup.recipe
        own = calibration(recipe, self._setup.format, scheme)
        return _digest(
            {
                "target": plan.target.name, "format": self._setup.format, "buckets": plan.buckets, "golden": plan.golden,
                "calibration": None if own is None else sha256_file(Path(own)), "gate": recipe.min_agreement,
            }
        )  # fmt: skip

    def _figures(self, step: Path, scheme: str) -> Path:
        meter = self._setup.meter
        asked = {"dev": self._setup.dev.digest, "cost": meter and meter.kind, "cpu": cpu_identity()}
        return step / f"{scheme}-{self._built(scheme)}-{_digest(asked)}.json"


def _folder(path: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(path.glob("*")) if file.is_file()}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(strict.plain(value), sort_keys=True).encode()).hexdigest()[:12]


def _write(path: Path, value: object) -> None:
    """Write JSON at once or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
    partial.replace(path)
