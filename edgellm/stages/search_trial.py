"""What one point of a search loses: its artifact is lowered as a build would, and answers in the worker that ships.

Lowering and answers are kept in the cache by what they are of, so that a trial that is run again, or a search with other
bounds, costs seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.core import strict
from edgellm.core.evaluation import Drop
from edgellm.core.manifest import Artifact
from edgellm.core.precision import Precisions
from edgellm.device.host import Host
from edgellm.runtime import engines
from edgellm.runtime.bundle import TOKENIZER, Bundle
from edgellm.runtime.machine import cpu_identity
from edgellm.stages.cache import Cache, key_of
from edgellm.stages.compare import compare
from edgellm.stages.examples import predictions, raw_inputs, strings_in, texts_in
from edgellm.stages.gate import gate
from edgellm.stages.plan import Plan
from edgellm.stages.produce import answers, produce
from edgellm.stages.resample import interval
from edgellm.stages.source import SourceModel
from edgellm.stages.verify import run_inputs
from edgellm.tasks import Example, load_task

EVERY = 3
"""Every third text is kept from choosing, where all come from one file."""

_ANY_DROP = 1e9
"""Points that a trial may lose without ending: its bounds are the search's."""


@dataclass(frozen=True)
class Questions:
    """Texts that points are compared with the fp32 source on.

    Attributes:
        about: where they are from, for people.
        inputs: raw inputs of the task.
        examples: the labelled examples that they belong to; empty where agreement with the source is what counts.

    """

    about: str
    inputs: tuple[object, ...]
    examples: tuple[Example, ...] = ()

    @property
    def n(self) -> int:
        """Labelled examples, or texts."""
        return len(self.examples or self.inputs)

    @property
    def digest(self) -> str:
        """Of what is asked and of its labels."""
        said = json.dumps([self.inputs, strict.plain(self.examples)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Lost:
    """What answers lost against the fp32 source's.

    Attributes:
        metric: of which.
        source: the source's score; None where agreement with it is the metric.
        drop: in points.

    """

    metric: str
    source: float | None
    drop: Drop


def labelled(about: str, examples: Sequence[Example]) -> Questions:
    """Return labelled examples as questions."""
    return Questions(about, tuple(raw_inputs(examples)), tuple(examples))


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return the examples that choose, and about every third, by a hash of its texts, that confirms."""
    chosen: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        said = "\n".join(strings_in(example.inputs))
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()
        chosen[digest[0] % EVERY == 0].append(example)
    return chosen


def asked_source(plan: Plan, questions: Questions, store: Cache, log: Path) -> list[object]:
    """Return the fp32 source's answers."""
    with store.workspace() as work:
        return answers(plan.source, questions.inputs, plan.max_tokens, store, work, log)


@contextmanager
def lowered(plan: Plan, precisions: Precisions, store: Cache, log: Path) -> Iterator[Bundle]:
    """Yield a bundle of one artifact, which is there until the end of the block.

    Args:
        plan: of one format; its own precisions, gate and labelled examples have no effect.
        precisions: scheme of each layer.
        store, log: as in a build.

    Raises:
        EdgellmError: it can't be lowered, does not fit the target, or does not run.

    """
    point = dataclasses.replace(
        plan, precisions=dict.fromkeys(plan.formats, precisions), labelled=(), min_agreement=0.0, min_exact=None,
        max_drop=_ANY_DROP,
        calibration=plan.calibration if precisions.calibrates(plan.target.backend(plan.formats[0])) else (),
    )  # fmt: skip
    with store.workspace() as work:
        entries = produce(point, store, work, log, lambda event: None)
        yield Bundle.open(gate(point, entries, store, work))


def ask(bundle: Bundle, questions: Questions, store: Cache) -> list[object]:
    """Return what a bundle's one artifact answers on this machine."""
    artifact = bundle.manifest.artifacts[0]
    key = key_of(
        "answers",
        ("numpy", "tokenizers"),
        artifact=_identity(bundle, artifact),
        options=strict.plain(bundle.manifest.task_options),
        max_tokens=bundle.manifest.max_tokens,
        inputs=questions.inputs,
        cpu=cpu_identity(),
        engine=engines.engine_version(artifact.format),
    )
    with store.locked(key):
        entry = store.get(key)
        if entry is None:
            values = run_inputs(bundle, artifact, questions.inputs, Host()).values
            with store.workspace() as empty:
                entry = store.put(key, empty, {"values": values})
    values = entry.value["values"]
    assert isinstance(values, list)
    return values


def lost(source: SourceModel, questions: Questions, said: Sequence[object], got: Sequence[object]) -> Lost:
    """Return what an artifact's answers lost, with a 95 % paired bootstrap interval.

    Of labelled examples that is the task's first metric, otherwise agreement with the source, which has none itself.

    Args:
        source: the model.
        questions: what was asked.
        said: the source's answers.
        got: the artifact's.

    Raises:
        InputError: the metric is undefined for the source on these examples.

    """
    task, options = load_task(source.task), source.options
    if questions.examples:
        golds = [example.gold for example in questions.examples]
        found = compare(
            golds, predictions(questions.examples, said, task, options), predictions(questions.examples, got, task, options),
            metrics=task.metrics, shown=[" ".join(texts_in([each])) for each in questions.examples], right=task.right,
        )  # fmt: skip
        return Lost(found.metric, found.source, found.drop)
    short = np.array([1.0 - task.agree(a, b, options) for a, b in zip(said, got, strict=True)])

    def mean(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(short[drawn].mean(axis=-1), dtype=np.float64)

    low, high = interval(mean, len(short), 0, 1000) if short.any() else (0.0, 0.0)
    return Lost(f"agreement with fp32 ({task.METRIC})", None, Drop(100 * float(short.mean()), low, high))


def _identity(bundle: Bundle, artifact: Artifact) -> list[str]:
    used = {*artifact.files, TOKENIZER}
    return [artifact.format, *(entry.sha256 for entry in bundle.manifest.files if entry.path in used)]
