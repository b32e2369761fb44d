"""Evaluate: a bundle's artifacts on labelled examples, beside the fp32 source on the same ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgellm.core import strict
from edgellm.core.evaluation import Evaluation
from edgellm.core.manifest import Artifact, Manifest
from edgellm.device import Device
from edgellm.device.host import Host
from edgellm.errors import InputError
from edgellm.runtime.bundle import MANIFEST, Bundle
from edgellm.stages.cache import Cache
from edgellm.stages.compare import compare, ensure_defined
from edgellm.stages.disk import disk_errors
from edgellm.stages.examples import predictions, raw_inputs, read_examples, texts_in
from edgellm.stages.produce import answers
from edgellm.stages.resample import score
from edgellm.stages.side_by_side import Watch, side_by_side
from edgellm.stages.source import read_source
from edgellm.stages.verify import Answers, run_inputs
from edgellm.tasks import Example, Task, load_task

FP32 = "fp32"

Told = Callable[[str], None]
"""Called with an artifact's id when it has answered everything."""


@dataclass(frozen=True)
class Scored:
    """How one artifact did.

    Attributes:
        id, format: of the artifact.
        metrics: the task's metrics by name, the one that decides first.
        truncated: raw inputs that were cut to fit.
        evaluation: beside the fp32 source; None where that was not given.
        ok: whether the headline metric lost no more than was allowed, or what it lost may be noise.

    """

    id: str
    format: str
    metrics: dict[str, float]
    truncated: int
    evaluation: Evaluation | None
    ok: bool


@dataclass(frozen=True)
class Evaluated:
    """How the artifacts of a bundle did on one device.

    Attributes:
        task: pipeline id.
        data: the file's name.
        data_sha256: of the examples that were read from it, as JSON.
        n: labelled examples.
        device: where artifacts ran.
        emulated: whether an emulator ran them.
        source: what answered in fp32, or None.
        ok: whether every artifact is.
        artifacts: one each.

    """

    task: str
    data: str
    data_sha256: str
    n: int
    device: str
    emulated: bool
    source: str | None
    ok: bool
    artifacts: tuple[Scored, ...]


def evaluate(
    bundle: Bundle,
    data: str | os.PathLike[str],
    device: Device | None = None,
    *,
    formats: Sequence[str] = (),
    source: str | None = None,
    max_drop: float | None = None,
    told: Told = lambda artifact: None,
) -> Evaluated:
    """Score artifacts on labelled examples.

    Args:
        bundle: to evaluate.
        data: labelled examples: .tsv, .csv, .jsonl, or a saved dataset; its columns are the task's.
        device: where artifacts run; this host if None.
        formats: which; all of the bundle's if empty.
        source: the fp32 source to compare with: what the bundle was built from (which needs the build extra), or a bundle
            of it that was built with the scheme fp32.
        max_drop: points that the headline metric may lose; a loss beyond it fails unless it may be noise.
        told: of progress.

    Raises:
        InputError: the data can't be used, or the source is another model's.
        BundleError: a bundle is damaged.
        MissingDependencyError: an engine, or a library of the metrics, is not installed.
        DeviceError: a worker died or gave no answer.

    """
    path, where = Path(data), device or Host()
    manifest = bundle.manifest
    task = load_task(manifest.task)
    chosen = list({(a := bundle.artifact(fmt)).id: a for fmt in formats}.values()) or list(manifest.artifacts)
    examples = read_examples(path, task, manifest.task_options)
    bundle.use_all()
    where.check([artifact.format for artifact in chosen])
    inputs = raw_inputs(examples)
    said = None if source is None else _ask_source(source, manifest, inputs)
    remote = where.push(bundle.path)

    def run(watch: Watch, artifact: Artifact) -> Answers:
        done = run_inputs(bundle, artifact, inputs, where, remote=remote, watch=watch)
        told(artifact.id)
        return done

    answered = side_by_side([partial(run, artifact=artifact) for artifact in chosen])
    scored = tuple(
        _score(artifact, done, said, examples, task, manifest, max_drop)
        for artifact, done in zip(chosen, answered, strict=True)
    )
    return Evaluated(
        manifest.task, path.name, _digest(examples), len(examples), where.name, where.emulated,
        None if source is None else f"{manifest.model.name} in fp32", all(item.ok for item in scored), scored,
    )  # fmt: skip


def _score(
    artifact: Artifact, done: Answers, said: Sequence[object] | None, examples: Sequence[Example], task: Task,
    manifest: Manifest, max_drop: float | None,
) -> Scored:  # fmt: skip
    options = manifest.task_options
    golds = [example.gold for example in examples]
    got = predictions(examples, done.values, task, options)
    cut = done.truncated
    if said is None:
        scores = score(task.metrics, golds, got)
        ensure_defined(scores, len(golds), artifact.id)
        known = {name: value for name, value in scores.items() if math.isfinite(value)}
        return Scored(artifact.id, artifact.format, known, cut, None, ok=True)
    shown = [" ".join(texts_in([example])) for example in examples]
    found = compare(
        golds, predictions(examples, said, task, options), got, metrics=task.metrics, shown=shown, right=task.right
    )
    ok = max_drop is None or not (found.drop.real and found.drop.points > max_drop)
    return Scored(artifact.id, artifact.format, {k: v[1] for k, v in found.metrics.items()}, cut, found, ok)


def _ask_source(source: str, manifest: Manifest, inputs: Sequence[object]) -> list[object]:
    """Return the fp32 source's answers, from a bundle or from the model itself."""
    if (Path(source) / MANIFEST).is_file():
        full = Bundle.open(source)
        _ensure_same(full.manifest.model.source_sha256, manifest, source)
        artifact = next((a for a in full.manifest.artifacts if a.scheme == FP32), None)
        if artifact is None:
            raise InputError(f"{source} holds no fp32 artifact.", hint="Build one with --scheme fp32.")
        other = full.manifest
        if (other.task, other.task_options, other.max_tokens) != (
            manifest.task,
            manifest.task_options,
            manifest.max_tokens,
        ):
            raise InputError(
                f"{source} was built for another task or length.",
                hint="Build it with the same options but --scheme fp32.",
            )
        full.use_all()
        return run_inputs(full, artifact, inputs, Host()).values
    options = manifest.task_options
    pooling = options.pooling if manifest.task == "feature-extraction" else None
    read = read_source(source, task=manifest.task, tokenizer=None, pooling=pooling, describe=_no_factory)
    _ensure_same(read.sha256, manifest, source)
    with disk_errors("The bundle is as it was."):
        store = Cache.default()
        with store.workspace() as work:
            log = store.root / "logs" / f"eval-{time.time_ns()}-{os.getpid()}.log"
            return answers(dataclasses.replace(read, options=options), inputs, manifest.max_tokens, store, work, log)


def _ensure_same(digest: str, manifest: Manifest, source: str) -> None:
    if digest != manifest.model.source_sha256:
        raise InputError(
            f"{source} is not the model that the bundle was built from.",
            hint="Its configuration, weights and tokenizer have to be the same files; what was built with --vocab-from is "
            "compared with an fp32 bundle of the same trimming.",
        )


def _no_factory(name: str) -> dict[str, object]:
    raise InputError(
        f"{name} can't be run for an evaluation.", hint="Build it with --scheme fp32, and give that bundle as --source."
    )


def _digest(examples: Sequence[Example]) -> str:
    text = json.dumps(strict.plain(tuple(examples)), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
