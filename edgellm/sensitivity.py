"""Sensitivity: which layers of a model, and which kinds of quantization, a scheme costs its accuracy in."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edgellm.core import strict
from edgellm.core.sensitivity import Sensitivity
from edgellm.errors import InputError, UsageError
from edgellm.stages import texts
from edgellm.stages.cache import Cache
from edgellm.stages.disk import disk_errors
from edgellm.stages.jobs import Job, run_jobs
from edgellm.stages.plan import MAX_CALIBRATION, resolve
from edgellm.texts import default_texts

_TARGET = "linux-x86_64"
"""Takes every format; nothing of a target is simulated."""

MIN_TEXTS = 6
"""Different texts at least."""


def measure_sensitivity(
    model: str | os.PathLike[str] | None = None,
    *,
    scheme: str = "int8-static",
    format: str = "executorch",
    task: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    ranges: str | None = None,
) -> Sensitivity:
    """Measure what each part of a model loses by a scheme, in a simulation.

    Args:
        model: as `edgellm.build` takes it.
        scheme: one that quantizes.
        format: whose way of quantizing is simulated.
        task, tokenizer, pooling: as `edgellm.build` takes them.
        calibration: file of one text per line, of which every third is measured on; edgellm's own texts if None.
        ranges: how a static scheme chooses ranges.

    Raises:
        UsageError: an option is wrong, or the scheme quantizes nothing.
        InputError: the model or the texts can't be used.
        MissingDependencyError: the build extra is not installed.

    """
    if scheme == "fp32":
        raise UsageError("fp32 quantizes nothing.", hint="Use --scheme int8-static or int8-dynamic.")
    if model is not None and ":" in os.fspath(model):
        raise InputError(
            f"The sensitivity of {model} can't be measured: a function leaves no folder.",
            hint="Save its module with save_pretrained, and give that folder.",
        )
    plan = resolve(
        None if model is None else os.fspath(model), target=_TARGET, formats=(format,), schemes=(scheme,), task=task,
        tokenizer=None if tokenizer is None else os.fspath(tokenizer), pooling=pooling, calibration=None, ranges=ranges,
        golden=None, eval=None, max_drop=None, min_agreement=0.0, seq_len=None, out=None, vocab_from=None,
        describe=lambda name: {},
    )  # fmt: skip
    given = default_texts("calibration") if calibration is None else texts.read_calibration(Path(calibration))
    lines = list(dict.fromkeys(given))  # none may choose and be measured on
    if len(lines) < MIN_TEXTS:
        raise InputError(
            f"{len(lines)} texts are too few to choose ranges on some and measure on the others.",
            hint=f"--calibration takes a file of {MIN_TEXTS} lines or more; a hundred are a good number.",
        )
    used = lines[:: -(-len(lines) // MAX_CALIBRATION)]
    fields: dict[str, object] = {
        "kind": "sensitivity", "source": strict.plain(plan.source), "scheme": scheme, "format": format, "texts": used,
        "ranges": plan.ranges, "max_tokens": plan.max_tokens,
    }  # fmt: skip
    found: dict[str, Any] = {}
    with disk_errors("Nothing was measured."):
        store = Cache.default()
        with store.workspace() as work:
            folder = work / "sensitivity"
            folder.mkdir()
            log = store.root / "logs" / f"sensitivity-{time.time_ns()}-{os.getpid()}.log"
            job = Job("sensitivity", {**fields, "folder": str(folder)}, found.update)
            run_jobs([job], side_by_side=1, log=log, started=lambda name: None)
    return strict.read(Sensitivity, found, "sensitivity")
