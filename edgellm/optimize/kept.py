"""Kept: where an optimization keeps models, bundles and figures, named after what they were made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellm.backends import TOOLS
from edgellm.core import strict
from edgellm.core.optimize import Measured, Move
from edgellm.optimize.recipe import MARK, STEPS, Setup
from edgellm.runtime.bundle import sha256_file
from edgellm.runtime.machine import cpu_identity
from edgellm.stages.cache import key_of
from edgellm.stages.source import identity

_SECONDS = "seconds.json"


class Kept:
    """The folders of one optimization.

    A step's folder is named after the baseline, the data, seed and precision, and every move that led to it. A bundle and its
    figures are also named after how it is built and asked, the tools' versions and edgellm's own code: a model that was trained
    stays what it is, a figure may not. What another recipe made stays, and is used again when that recipe returns.
    """

    def __init__(self, setup: Setup) -> None:
        """Take the setup."""
        self._setup = setup
        recipe = setup.recipe
        self._learned = {
            "model": identity(setup.source), "train": strict.plain(setup.train), "dev": setup.dev.digest,
            "seed": recipe.seed, "max_tokens": setup.plan.max_tokens,
            "teacher": None if recipe.teacher is None else _files(Path(recipe.teacher)),
            # As it was before there was a choice: what was made then is found again.
            **({} if recipe.precision == "fp32" else {"precision": recipe.precision}),
        }  # fmt: skip
        self._steps = setup.out / STEPS
        self._baseline = f"baseline-{_digest(self._learned)}"

    def step(self, move: Move, begins: Path | None) -> Path:
        """Return the folder of a move, which is there afterwards.

        Args:
            move: any.
            begins: model that it begins from; None for the baseline.

        """
        name = self._baseline
        if begins is not None:
            did = {name: value for name, value in vars(move).items() if name not in ("begins", "rung")}
            name = f"{move.kind}-{_digest({'of': self._origin(begins), **did})}"
        folder = self._steps / name
        folder.mkdir(parents=True, exist_ok=True)
        (self._steps / MARK).touch()
        return folder

    def bundle(self, step: Path, scheme: str) -> Path:
        """Return the folder of a step's bundle."""
        return step / f"{scheme}-{self._built(scheme)}"

    def measured(self, step: Path, scheme: str) -> Measured | None:
        """Return what was measured of a step's artifact; None where it was not, or its bundle is gone."""
        path, bundle = self._figures(step, scheme), self.bundle(step, scheme)
        if not path.is_file():
            return None
        found = strict.read(Measured, json.loads(path.read_text(encoding="utf-8")), str(path))
        if found.refused:
            return found
        return dataclasses.replace(found, bundle=str(bundle)) if bundle.is_dir() else None  # the folder may have moved

    def keep(self, step: Path, found: Measured) -> None:
        """Keep what was measured."""
        write(self._figures(step, found.scheme), strict.plain(found))

    @contextmanager
    def timed(self, step: Path) -> Iterator[None]:
        """Add the time of a block to a step's."""
        start, before = time.perf_counter(), self.seconds(step)
        try:
            yield
        finally:
            write(step / _SECONDS, round(before + time.perf_counter() - start, 1))

    def seconds(self, step: Path) -> float:
        """Return how long a step took, in all runs."""
        path = step / _SECONDS
        return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0

    def _origin(self, model: Path) -> str:
        """Return the name of the step that a model is of; that of the baseline's, which lies elsewhere."""
        return model.relative_to(self._steps).parts[0] if model.is_relative_to(self._steps) else self._baseline

    def _built(self, scheme: str) -> str:
        plan = self._setup.plans[scheme]
        return _digest(
            key_of(
                "optimize", TOOLS[plan.target.backend(self._setup.format)], target=strict.plain(plan.target),
                format=self._setup.format, buckets=plan.buckets, golden=plan.golden, calibration=plan.calibration,
                gate=(plan.min_agreement, plan.min_exact),
            )
        )  # fmt: skip

    def _figures(self, step: Path, scheme: str) -> Path:
        meter = self._setup.meter
        asked = {"dev": self._setup.dev.digest, "cost": meter and meter.kind, "cpu": cpu_identity()}
        return step / f"{scheme}-{self._built(scheme)}-{_digest(asked)}.json"


def write(path: Path, value: object) -> None:
    """Write JSON at once or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _files(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(strict.plain(value), sort_keys=True).encode()).hexdigest()[:12]
