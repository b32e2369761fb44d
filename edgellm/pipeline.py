"""The build, top to bottom: source, reference and lowering side by side, gate, package."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgellm
from edgellm.backends import TOOLS, Lowered
from edgellm.core import strict
from edgellm.core.agreement import Agreement, AgreementMatrix, Evaluation
from edgellm.core.manifest import SCHEMA_VERSION, Artifact, Manifest, ModelInfo
from edgellm.core.scheme import FORMATS, resolve_scheme
from edgellm.core.target import Target
from edgellm.device.host import Host
from edgellm.errors import DeviceError, InputError, UsageError, unknown
from edgellm.runtime import engines
from edgellm.runtime.bundle import GOLDEN, TOKENIZER, Bundle, sha256_file, to_outputs
from edgellm.runtime.machine import cpu_identity
from edgellm.stages import package, texts, verify
from edgellm.stages.cache import Cache, Entry, key_of, versions
from edgellm.stages.jobs import Job, available_memory, run_jobs, slots
from edgellm.stages.source import SourceModel, read_source
from edgellm.targets import load_target
from edgellm.tasks import load_task
from edgellm.texts import default_texts

DEFAULT_LENGTHS = (16, 32, 64, 128)
"""Token counts that are served without padding to more, special tokens included."""

PROTOBUF_LIMIT = 2**31 - 1
"""ONNX files are protobuf and TFLite files flatbuffers; neither holds an fp32 model beyond this many bytes."""

_LONGEST_FIRST = ("executorch", "tflite", "reference", "onnx")


@dataclass(frozen=True)
class Progress:
    """What happens during a build: a stage ("source", "reference", "lower onnx", "gate", "package") starts or ends.

    Attributes:
        stage: its name.
        seconds: None when it starts, its duration when it ends.
        cached: whether its result was found in the cache.

    """

    stage: str
    seconds: float | None = None
    cached: bool = False


@dataclass(frozen=True)
class Built:
    """A finished build: the bundle, and seconds per stage."""

    bundle: Bundle
    seconds: dict[str, float]


def build(
    model: str | os.PathLike[str] | None = None,
    *,
    target: str,
    formats: Sequence[str] = (),
    scheme: str | None = None,
    task: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    eval: str | os.PathLike[str] | None = None,
    min_agreement: float = 0.99,
    seq_len: Sequence[int] | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: bool = True,
    progress: Callable[[Progress], None] = lambda event: None,
) -> Bundle:
    """Build a verified bundle.

    Args:
        model: a folder written by `save_pretrained`, or "package.module:function" that returns an `nn.Module`; left
            out, the sentence encoder of the `demo` extra.
        target: name of a target (`edgellm targets`).
        formats: which of the target's formats; all if empty.
        scheme: what is quantized how; the target's default if None.
        task: pipeline id; from the model's architecture if None.
        tokenizer: folder with tokenizer.json, where the model's has none.
        pooling: for feature-extraction: "mean", "cls" or "none".
        calibration: file of one text per line, for schemes that calibrate.
        eval: tab-separated file with columns text and label.
        min_agreement: the gate, from 0 to 1.
        seq_len: token counts to serve; the largest is the bundle's max_tokens.
        out: the bundle's folder; `<model>-<target>` if None.
        cache: whether results of earlier builds may be used, and are kept.
        progress: called when a stage starts and ends.

    Raises:
        EdgellmError: see `edgellm.errors`; no bundle was left or changed.

    """
    return build_timed(
        model, target=target, formats=formats, scheme=scheme, task=task, tokenizer=tokenizer, pooling=pooling,
        calibration=calibration, eval=eval, min_agreement=min_agreement, seq_len=seq_len, out=out, cache=cache,
        progress=progress,
    ).bundle  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything resolved before anything is loaded."""

    source: SourceModel
    target: Target
    formats: tuple[str, ...]
    scheme: str
    buckets: tuple[int, ...]
    min_agreement: float
    golden: tuple[str, ...]
    labelled: tuple[texts.Labelled, ...]
    out: Path

    @property
    def max_tokens(self) -> int:
        """The longest text that is not cut."""
        return self.buckets[-1]


def build_timed(
    model: str | os.PathLike[str] | None, *, target: str, formats: Sequence[str], scheme: str | None, task: str | None,
    tokenizer: str | os.PathLike[str] | None, pooling: str | None, calibration: str | os.PathLike[str] | None,
    eval: str | os.PathLike[str] | None, min_agreement: float, seq_len: Sequence[int] | None,
    out: str | os.PathLike[str] | None, cache: bool, progress: Callable[[Progress], None],
) -> Built:  # fmt: skip
    """Build as `build` does, and return the seconds per stage as well."""
    seconds: dict[str, float] = {}
    store = Cache.default(enabled=cache)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        progress(Progress(name))
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 3)
        progress(Progress(name, seconds[name]))

    def note(name: str, start: float, cached: bool) -> None:
        seconds[name] = round(time.perf_counter() - start, 3)
        progress(Progress(name, seconds[name], cached))

    with _disk_errors(), store.workspace() as work:
        store.tidy()
        log = store.root / "logs" / f"build-{time.time_ns()}-{os.getpid()}.log"
        with stage("source"):
            plan = resolve(
                None if model is None else os.fspath(model), target=target, formats=formats, scheme=scheme, task=task,
                tokenizer=None if tokenizer is None else os.fspath(tokenizer), pooling=pooling, calibration=calibration,
                eval=eval, min_agreement=min_agreement, seq_len=seq_len, out=out, describe=_describer(work, log),
            )  # fmt: skip
        entries = _lower_all(plan, store, work, log, progress, note)
        with stage("gate"):
            manifest, folder, files = _gate(plan, entries, store, work)
        with stage("package"):
            package.write_manifest(folder, manifest)
            bundle = package.publish([*files, folder / "manifest.json"], folder, plan.out)
        return Built(bundle, seconds)


def resolve(
    model: str | None, *, target: str, formats: Sequence[str], scheme: str | None, task: str | None,
    tokenizer: str | None, pooling: str | None, calibration: str | os.PathLike[str] | None,
    eval: str | os.PathLike[str] | None, min_agreement: float, seq_len: Sequence[int] | None,
    out: str | os.PathLike[str] | None, describe: Callable[[str], dict[str, Any]],
) -> Plan:  # fmt: skip
    """Return the plan, having checked everything that can be checked without torch.

    Raises:
        UsageError: an option is wrong, or a combination impossible.
        InputError: a model or a file can't be used.
        MissingDependencyError: a package is not installed.

    """
    aim = load_target(target)
    chosen = _formats(aim, formats)
    how = resolve_scheme(scheme or aim.scheme, chosen)
    if not 0 <= min_agreement <= 1:
        raise UsageError(f"--min-agreement is {min_agreement:g}; it goes from 0 to 1.")
    if calibration is not None and not how.calibrates:
        raise UsageError(f"--calibration has no use: {how.name} runs no samples.", hint="Leave it out.")
    for fmt in chosen:
        versions(TOOLS[fmt])
    verify.ensure_engines(chosen)
    if out is not None:
        package.check_out(Path(out))
    source = read_source(model, task=task, tokenizer=tokenizer, pooling=pooling, describe=describe)
    plugin = load_task(source.task)
    labelled = []
    if eval is not None:
        if not plugin.LABELLED:
            raise UsageError(f"--eval has no use: {source.task} gives no label to compare.", hint="Leave it out.")
        labelled = texts.read_labelled(Path(eval))
    golden = default_texts("golden")[: plugin.GOLDEN_CASES]
    texts.ensure_disjoint(
        golden=golden,
        calibration=default_texts("calibration"),
        evaluation=[item.text for item in labelled],
    )
    place = Path(out) if out is not None else Path(f"{source.name}-{aim.name}")
    package.check_out(place)
    buckets = _buckets(seq_len, source.max_positions)
    _check_size(source)
    return Plan(source, aim, chosen, how.name, buckets, min_agreement, tuple(golden), tuple(labelled), place)


def _formats(target: Target, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the formats to build, in the target's order of preference."""
    for fmt in asked:
        if fmt not in FORMATS:
            raise unknown("format", fmt, FORMATS)
        if fmt not in target.formats:
            raise UsageError(f"{target.name} takes no {fmt}; it takes {', '.join(target.formats)}.")
    return tuple(fmt for fmt in target.formats if fmt in asked or not asked)


def _buckets(asked: Sequence[int] | None, bound: int | None) -> tuple[int, ...]:
    """Return the lengths to serve, ascending, within the model's positions."""
    if asked is None:
        fitting = [n for n in DEFAULT_LENGTHS if bound is None or n <= bound]
        return tuple(fitting or [bound or DEFAULT_LENGTHS[0]])
    lengths = tuple(sorted(set(asked)))
    if not lengths or lengths[0] < 4:
        raise UsageError(f"--seq-len {','.join(map(str, asked)) or 'is empty'}: a length is 4 tokens or more.")
    if bound is not None and lengths[-1] > bound:
        raise UsageError(
            f"--seq-len {lengths[-1]} is beyond the model, whose position table ends at {bound}.",
            hint=f"The largest it takes is {bound}.",
        )
    return lengths


def _check_size(source: SourceModel) -> None:
    """Refuse a model that the file formats or this machine's memory can't hold."""
    weights = source.parameters * 4
    if weights > PROTOBUF_LIMIT:
        raise InputError(
            f"{source.name} has {source.parameters / 1e6:.0f} M parameters, {weights / 1e9:.1f} GB in fp32; ONNX and TFLite "
            "files end at 2.1 GB on the way to int8.",
            hint="Distil or prune it first.",
        )
    free = available_memory()
    if free is not None and _job_bytes(source) > free:
        raise InputError(
            f"Lowering {source.name} takes about {_job_bytes(source) / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free.",
            hint="Close other programs, or build on a larger machine.",
        )


def _job_bytes(source: SourceModel) -> int:
    """Return an estimate of the peak memory of one job: what the tools take, and copies of the fp32 weights.

    Measured on MiniLM (91 MB of weights): 0.8 to 1.5 GB, `make bench`.
    """
    return 1_000_000_000 + 6 * 4 * source.parameters


def _describer(work: Path, log: Path) -> Callable[[str], dict[str, Any]]:
    def describe(factory: str) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        folder = work / "describe"
        folder.mkdir()
        fields: dict[str, object] = {"kind": "describe", "factory": factory, "folder": str(folder)}
        run_jobs([Job("describe", fields, facts.update)], side_by_side=1, log=log, started=lambda name: None)
        return facts

    return describe


def _lower_all(
    plan: Plan, store: Cache, work: Path, log: Path, progress: Callable[[Progress], None],
    note: Callable[[str, float, bool], None],
) -> dict[str, Entry]:  # fmt: skip
    """Return the reference and one lowered artifact per format, from the cache or made side by side."""
    source = strict.plain(plan.source)
    wanted: dict[str, tuple[str, dict[str, object]]] = {
        "reference": (
            key_of("reference", ("torch", "transformers", "tokenizers"), source=_identity(plan.source),
                   texts=plan.golden, labelled=[item.text for item in plan.labelled], max_tokens=plan.max_tokens,
                   cpu=cpu_identity()),
            {"kind": "reference", "source": source, "texts": plan.golden,
             "labelled": [item.text for item in plan.labelled], "max_tokens": plan.max_tokens},
        )
    }  # fmt: skip
    for fmt in plan.formats:
        facts = {"format": fmt, "scheme": plan.scheme, "buckets": plan.buckets, "target": strict.plain(_lowering(plan))}
        key = key_of("lower", TOOLS[fmt], source=_identity(plan.source), **facts)
        wanted[fmt] = (key, {"kind": "lower", "source": source, **facts})
    entries: dict[str, Entry] = {}
    jobs = []
    started: dict[str, float] = {}
    for name in sorted(wanted, key=_LONGEST_FIRST.index):
        key, fields = wanted[name]
        label = _label(name)
        start = time.perf_counter()
        found = store.get(key)
        if found:
            entries[name] = found
            note(label, start, True)
            continue
        folder = work / name
        folder.mkdir()

        def finish(value: dict[str, Any], name: str = name, key: str = key, folder: Path = folder) -> None:
            entries[name] = store.put(key, folder, value)
            note(_label(name), started[name], False)

        jobs.append(Job(name, {**fields, "folder": str(folder)}, finish))

    def begin(name: str) -> None:
        started[name] = time.perf_counter()
        progress(Progress(_label(name)))

    run_jobs(jobs, side_by_side=slots(_job_bytes(plan.source)), log=log, started=begin)
    return entries


def _label(name: str) -> str:
    return name if name == "reference" else f"lower {name}"


def _identity(source: SourceModel) -> object:
    """Return what of a source decides results: not where it lies."""
    return strict.plain(dataclasses.replace(source, folder=None, tokenizer="", name="", licence=None))


def _lowering(plan: Plan) -> Target:
    """Return the target without what lowering does not see, so that targets share artifacts."""
    return dataclasses.replace(
        plan.target, name="", summary="", tier=1, arch="aarch64", abi="", cpu="", cpu_features=(), toolchain="",
        runtimes={}, formats=FORMATS, delegates={fmt: plan.target.delegates.get(fmt, "") for fmt in FORMATS},
        scheme="fp32",
    )  # fmt: skip


def _gate(plan: Plan, entries: dict[str, Entry], store: Cache, work: Path) -> tuple[Manifest, Path, list[Path]]:
    """Assemble the bundle, run every artifact as it ships, and return the manifest with what was measured.

    Raises:
        GateError: an artifact falls short.

    """
    folder = work / "bundle"
    folder.mkdir()
    files = [entries["reference"].folder / TOKENIZER, entries["reference"].folder / GOLDEN]
    lowered = {fmt: strict.read(Lowered, entries[fmt].value, fmt) for fmt in plan.formats}
    files += [entries[fmt].folder / lowered[fmt].file for fmt in plan.formats]
    for path in files:
        os.link(path, folder / path.name)  # a second name, no copy: the cache lies on the same disk
    unmeasured = Agreement("", 0.0, 0.0, 0, "", "")
    artifacts = tuple(_artifact(plan, fmt, lowered[fmt], folder, unmeasured) for fmt in plan.formats)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        task=plan.source.task,
        task_options=plan.source.options,
        target=plan.target.name,
        model=ModelInfo(plan.source.name, plan.source.sha256, plan.source.parameters, plan.source.licence),
        tools={"edgellm": edgellm.__version__, **versions(tuple(sorted({t for f in plan.formats for t in TOOLS[f]})))},
        max_tokens=plan.max_tokens,
        min_agreement=plan.min_agreement,
        files=package.list_files(folder),
        artifacts=artifacts,
        matrix=AgreementMatrix((), ()),
    )
    key = key_of("gate", (), files=strict.plain(manifest.files), options=strict.plain(manifest.task_options),
                 labels=[item.label for item in plan.labelled], cpu=cpu_identity(),
                 engines=[engines.engine_version(fmt) for fmt in plan.formats])  # fmt: skip
    entry = store.get(key)
    if entry is None:
        package.write_manifest(folder, manifest)
        value = _measure(plan, Bundle.open(folder), entries["reference"].folder)
        with store.workspace() as empty:
            entry = store.put(key, empty, value)
    table = strict.read(AgreementMatrix, entry.value["matrix"], "gate")
    measured = tuple(
        dataclasses.replace(
            artifact,
            agreement=strict.read(Agreement, entry.value["agreement"][artifact.id], "gate"),
            evaluation=_evaluation(entry.value["evaluation"].get(artifact.id)),
        )
        for artifact in artifacts
    )
    verify.gate(measured, table, plan.min_agreement)
    manifest = dataclasses.replace(manifest, artifacts=measured, matrix=table)
    package.write_card(folder, manifest)
    files = [folder / path.name for path in files] + [folder / "README.md"]
    return dataclasses.replace(manifest, files=package.list_files(folder)), folder, files


def _measure(plan: Plan, bundle: Bundle, reference: Path) -> dict[str, Any]:
    """Run golden and evaluation texts through every artifact in the worker that ships."""
    device = Host()
    golden = list(bundle.golden())
    outputs = {a.id: verify.run_cases(bundle, a, golden, device) for a in bundle.manifest.artifacts}
    agreement = {name: strict.plain(verify.agree(bundle, golden, column, device)) for name, column in outputs.items()}
    evaluation: dict[str, object] = {}
    if plan.labelled:
        task, options = load_task(plan.source.task), plan.source.options
        labels = [item.label for item in plan.labelled]
        with (reference / "labelled.jsonl").open(encoding="utf-8") as lines:
            source = [to_outputs(json.loads(line)[0]) for line in lines]
        metric, score = task.evaluate(source, labels, options)
        for artifact in bundle.manifest.artifacts:
            got = verify.run_texts(bundle, artifact, [item.text for item in plan.labelled], device)
            value = task.evaluate(got, labels, options)[1]
            evaluation[artifact.id] = strict.plain(Evaluation(metric, len(labels), score, value))
    table = strict.plain(verify.matrix(bundle, golden, outputs))
    return {"agreement": agreement, "evaluation": evaluation, "matrix": table}


def _evaluation(data: object) -> Evaluation | None:
    return None if data is None else strict.read(Evaluation, data, "gate")


def _artifact(plan: Plan, fmt: str, lowered: Lowered, folder: Path, agreement: Agreement) -> Artifact:
    path = folder / lowered.file
    return Artifact(
        id=f"{fmt}-{plan.scheme}",
        format=fmt,
        file=lowered.file,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        scheme=plan.scheme,
        delegate=plan.target.delegates[fmt],
        signature=lowered.signature,
        session_options=lowered.session_options,
        partitions=lowered.partitions,
        delegated_ops=lowered.delegated_ops,
        total_ops=lowered.total_ops,
        contents=lowered.contents,
        agreement=agreement,
    )


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn a full or unwritable disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DeviceError(
                f"There is no room on the disk{where}: {error.strerror}.",
                hint="Free some, or choose another --out; EDGELLM_CACHE moves the cache. No bundle was changed.",
            ) from None
        raise DeviceError(
            f"The system refused{where}: {error.strerror or error}.", hint="No bundle was changed."
        ) from None
