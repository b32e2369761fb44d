"""Trimmed: a plan whose source has only the pieces that a product needs, made by a job or found in the cache."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from edgellm.core import strict
from edgellm.stages.cache import Cache, Entry, key_of
from edgellm.stages.examples import strings_in
from edgellm.stages.jobs import Job, run_jobs
from edgellm.stages.plan import Plan, check_size
from edgellm.stages.produce import Progress, Report
from edgellm.stages.source import SourceModel, identity, read_source
from edgellm.stages.texts import Corpus

STAGE = "trim"

MODEL = "model"
"""Folder of the trimmed source within the job's folder."""


@dataclass(frozen=True)
class Cut:
    """What trimming did.

    Attributes:
        rows: of the embedding table, before and after.
        numbers: dropped from the model's tables and heads.
        tokenizer_bytes: of tokenizer.json as it ships, before and after.
        proven: texts whose pieces were compared, and among them those whose outputs were.
        exact: whether those outputs are the same to the bit.
        changed: golden texts that are cut into other pieces than before, and all of them.

    """

    rows: tuple[int, int]
    numbers: int
    tokenizer_bytes: tuple[int, int]
    proven: tuple[int, int]
    exact: bool
    changed: tuple[int, int]


def trimmed(plan: Plan, pooling: str | None, store: Cache, work: Path, log: Path, report: Report) -> Plan:
    """Return the plan with its source trimmed to its corpus; the plan itself where it has none.

    From here on the build knows nothing of it: the trimmed source is a folder like any other.

    Args:
        plan: what to build.
        pooling: that the user asked for, as in `read_source`.
        store: where trimmed sources are kept.
        work: folder for work in progress.
        log: takes what the job prints.
        report: called when it starts and ends.

    Raises:
        InputError: the model or its tokenizer can't be trimmed, or is too large all the same.
        EdgellmError: the trimmed source does not answer the corpus as the whole one; nothing is kept of it.

    """
    if plan.corpus is None:
        return plan
    golden = tuple(dict.fromkeys(strings_in(plan.golden)))
    fields = {"source": strict.plain(plan.source), "texts": plan.corpus.texts, "golden": golden}
    tools = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
    key = key_of(STAGE, tools, **{**fields, "source": identity(plan.source)})
    start = time.perf_counter()
    with store.locked(key):
        entry = store.get(key)
        if entry is None:
            entry = _run(fields, key, store, work / STAGE, log, report)
        else:
            report(Progress(STAGE, round(time.perf_counter() - start, 3), cached=True))
    source = _read(entry.folder / MODEL, plan.source, pooling)
    check_size(source, plan.formats)
    cut = strict.read(Cut, entry.value, STAGE)
    return dataclasses.replace(plan, source=source, notes=(*_notes(plan, plan.corpus, cut), *plan.notes))


def _run(fields: dict[str, object], key: str, store: Cache, folder: Path, log: Path, report: Report) -> Entry:
    start = time.perf_counter()
    folder.mkdir()
    values: dict[str, object] = {}
    job = Job(STAGE, {"kind": STAGE, "folder": str(folder), **fields}, values.update)
    run_jobs([job], side_by_side=1, log=log, started=lambda name: report(Progress(STAGE)))
    entry = store.put(key, folder, values)
    report(Progress(STAGE, round(time.perf_counter() - start, 3)))
    return entry


def _read(folder: Path, whole: SourceModel, pooling: str | None) -> SourceModel:
    """Return the trimmed source under the name and licence of the whole one."""

    def describe(factory: str) -> dict[str, object]:
        raise AssertionError(f"{factory} is no folder")

    source = read_source(
        str(folder),
        task=whole.task,
        tokenizer=None,
        pooling=pooling,
        describe=describe,
        alternatives=whole.options.alternatives,
    )
    # Its own options, as ids are others now; but for what the plan added.
    options = dataclasses.replace(source.options, overlap=whole.options.overlap)
    return dataclasses.replace(source, name=whole.name, licence=whole.licence, options=options)


def _notes(plan: Plan, corpus: Corpus, cut: Cut) -> tuple[str, ...]:
    """Return what was saved and what it costs, in sentences."""
    before, after = cut.rows
    saved = cut.tokenizer_bytes[0] - cut.tokenizer_bytes[1]
    how = "to the bit" if cut.exact else "as closely as fp32 sums allow"
    return (
        f"The vocabulary was trimmed from {before:,} to {after:,} pieces by {corpus.name} ({len(corpus.texts):,} texts, "
        f"SHA-256 {corpus.sha256}): {before - after:,} rows fewer, {cut.numbers * 4 / 1e6:.2f} MB in fp32 or "
        f"{cut.numbers / 1e6:.2f} MB in int8, and {saved / 1e6:.2f} MB less of tokenizer.json. The whole source's SHA-256 is "
        f"{plan.source.sha256}.",
        f"Trimming changed no piece of {cut.proven[0]:,} texts of that file, and in fp32 {cut.proven[1]} of them are "
        f"answered as before, {how}. Texts unlike them may be answered differently: {cut.changed[0]} of {cut.changed[1]} "
        "golden texts are cut into other pieces, and agreement is with the trimmed model.",
    )
