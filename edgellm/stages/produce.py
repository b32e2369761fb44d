"""Produce: the reference and one artifact per format, found in the cache or made side by side."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.backends import TOOLS
from edgellm.core import strict
from edgellm.core.scheme import PORTABLE
from edgellm.core.target import Target
from edgellm.runtime.machine import cpu_identity
from edgellm.stages.cache import Cache, Entry, key_of
from edgellm.stages.examples import raw_inputs
from edgellm.stages.jobs import Job, run_jobs, slots
from edgellm.stages.plan import Plan, job_bytes
from edgellm.stages.references import files_beside
from edgellm.stages.source import SourceModel, identity
from edgellm.toolchain import vela

REFERENCE = "reference"

LABELLED = "labelled.jsonl"
"""The fp32 source's answers to the raw inputs of labelled examples, one a line, in the reference's folder."""

_COMPARED = 96
"""Golden inputs at most that a static scheme's calibration texts are compared with."""

_LONGEST_FIRST = ("executorch", "tflite", REFERENCE, "qnn", "mlpackage", "onnx")


@dataclass(frozen=True)
class Progress:
    """What happens during a build: a stage ("source", "trim", "reference", "lower onnx", "gate", ...) starts or ends.

    Attributes:
        stage: its name.
        seconds: None when it starts, its duration when it ends.
        cached: whether its result was found in the cache.

    """

    stage: str
    seconds: float | None = None
    cached: bool = False


Report = Callable[[Progress], None]


def produce(plan: Plan, store: Cache, work: Path, log: Path, report: Report) -> dict[str, Entry]:
    """Return the entries of the reference (under "reference") and of each format.

    Each is kept as soon as it is done, so that an interrupted build goes on where it was. Two builds that want the
    same take turns: the locks are taken in one order, so they never wait for each other in a circle.

    Raises:
        EdgellmError: what a job answered; see `run_jobs`.

    """
    wanted = _wanted(plan)
    entries: dict[str, Entry] = {}
    jobs = []
    started: dict[str, float] = {}

    def begin(name: str) -> None:
        started[name] = time.perf_counter()
        report(Progress(_label(name)))

    with ExitStack() as locks:
        for name, (key, _) in sorted(wanted.items(), key=lambda item: item[1][0]):
            if _find(name, key, store, entries, report):
                continue
            locks.enter_context(store.locked(key))
            _find(name, key, store, entries, report)  # another build may have made it while this one waited
        for name in sorted(wanted.keys() - entries.keys(), key=_LONGEST_FIRST.index):
            key, fields = wanted[name]
            folder = work / name
            folder.mkdir()

            def finish(value: dict[str, Any], name: str = name, key: str = key, folder: Path = folder) -> None:
                entries[name] = store.put(key, folder, value)
                report(Progress(_label(name), round(time.perf_counter() - started[name], 3)))

            jobs.append(Job(name, {**fields, "folder": str(folder)}, finish))
        run_jobs(jobs, side_by_side=slots(job_bytes(plan.source)), log=log, started=begin)
    return entries


def _find(name: str, key: str, store: Cache, entries: dict[str, Entry], report: Report) -> bool:
    start = time.perf_counter()
    found = store.get(key)
    if found is not None:
        entries[name] = found
        report(Progress(_label(name), round(time.perf_counter() - start, 3), cached=True))
    return found is not None


def _wanted(plan: Plan) -> dict[str, tuple[str, dict[str, object]]]:
    """Return the key and the job of each result."""
    labelled = raw_inputs(plan.labelled)
    wanted: dict[str, tuple[str, dict[str, object]]] = {
        REFERENCE: _asked(plan.source, plan.golden, labelled, plan.max_tokens)
    }
    source = strict.plain(plan.source)
    for fmt in plan.formats:
        precisions, backend = plan.precisions[fmt], plan.target.backend(fmt)
        calibrates = precisions.calibrates(backend, plan.tuning)
        facts = {
            "format": fmt,
            "scheme": precisions.default,
            "layers": precisions.layers,
            "tuning": strict.plain(plan.tuning),
            "compiler": "" if plan.target.npu is None else vela.version(),
            "buckets": plan.buckets,
            "target": strict.plain(_lowering(plan, fmt)),
            "calibration": plan.calibration if calibrates else (),
            "ranges": plan.ranges if precisions.static else "",
            "golden": _spread(plan.golden) if precisions.static else (),
        }
        # What is tuned on texts depends on fp32 sums, as the reference does.
        cpu = cpu_identity() if facts["calibration"] else ""
        key = key_of("lower", TOOLS[backend], source=identity(plan.source), cpu=cpu, **facts)
        wanted[fmt] = (key, {"kind": "lower", "source": source, **facts})
    return wanted


def answers(
    source: SourceModel, inputs: Sequence[object], max_tokens: int, store: Cache, work: Path, log: Path
) -> list[object]:
    """Return the fp32 source's answers to raw inputs.

    Raises:
        EdgellmError: what the job answered; see `run_jobs`.

    """
    key, fields = _asked(source, (), inputs, max_tokens)
    with store.locked(key):
        entry = store.get(key)
        if entry is None:
            found: list[Entry] = []
            folder = work / REFERENCE
            folder.mkdir()
            job = Job(
                REFERENCE, {**fields, "folder": str(folder)}, lambda value: found.append(store.put(key, folder, value))
            )
            run_jobs([job], side_by_side=1, log=log, started=lambda name: None)
            entry = found[0]
        with (entry.folder / LABELLED).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def _asked(
    source: SourceModel, golden: Sequence[object], labelled: Sequence[object], max_tokens: int
) -> tuple[str, dict[str, object]]:
    """Return key and job of the fp32 source's answers."""
    inputs = {"golden": tuple(golden), "labelled": list(labelled), "max_tokens": max_tokens}
    tools = ("numpy", "tokenizers", "torch", "transformers")
    # fp32 sums depend on the kernels that the CPU gets; the check of the tokenizer on the files beside it.
    beside = files_beside(Path(source.tokenizer))
    key = key_of(REFERENCE, tools, source=identity(source), beside=beside, cpu=cpu_identity(), **inputs)
    return key, {"kind": REFERENCE, "source": strict.plain(source), **inputs}


def _spread(inputs: tuple[object, ...]) -> tuple[object, ...]:
    return inputs[:: max(1, -(-len(inputs) // _COMPARED))]


def _label(name: str) -> str:
    return name if name == REFERENCE else f"lower {name}"


def _lowering(plan: Plan, fmt: str) -> Target:
    """Return the target without what lowering to a format does not see, so that targets share artifacts."""
    backend = plan.target.backend(fmt)
    return dataclasses.replace(
        plan.target, name="", summary="", tier=1, arch="aarch64", cpu="", cpu_features=(), toolchain="",
        runtimes={}, page_bytes=4096, devices=(), formats=(fmt,), scheme="fp32", schemes={}, seq_len=(),
        delegates={fmt: plan.target.delegates[fmt]}, htp=plan.target.htp if fmt == "qnn" else None,
        npu=plan.target.npu, abi="" if backend in PORTABLE else plan.target.abi,
    )  # fmt: skip
