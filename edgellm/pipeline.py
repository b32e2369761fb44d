"""The build, top to bottom: plan, reference and lowering side by side, gate, package."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.core.scheme import Tuning
from edgellm.device import Device, open_device
from edgellm.errors import DeviceError, UsageError
from edgellm.runtime.bundle import Bundle
from edgellm.stages.cache import Cache
from edgellm.stages.disk import disk_errors
from edgellm.stages.gate import gate
from edgellm.stages.jobs import Job, run_jobs
from edgellm.stages.judge import judge_device
from edgellm.stages.package import publish
from edgellm.stages.plan import Plan, resolve
from edgellm.stages.produce import Progress, Report, produce
from edgellm.stages.report import write_verification
from edgellm.stages.trimmed import trimmed
from edgellm.stages.verify import Verification, verify_on

_UNCHANGED = "No bundle was changed."


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        bundle: where it lies.
        seconds: per stage.
        devices: what `verify_on_device` found, one per device of the target.

    """

    bundle: Bundle
    seconds: dict[str, float]
    devices: tuple[Verification, ...] = ()


def build(
    model: str | os.PathLike[str] | None = None,
    *,
    target: str,
    formats: Sequence[str] = (),
    scheme: str | Sequence[str] | None = None,
    layers: str | os.PathLike[str] | None = None,
    task: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    ranges: str | None = None,
    golden: str | os.PathLike[str] | None = None,
    eval: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    vocab_from: str | os.PathLike[str] | None = None,
    alternatives: int = 1,
    equalize: bool = True,
    fit: bool = True,
    correct_bias: bool = False,
    max_fallback: float | None = None,
    min_agreement: float = 0.99,
    min_exact: float | None = None,
    seq_len: Sequence[int] | None = None,
    out: str | os.PathLike[str] | None = None,
    verify_on_device: bool = False,
    cache: bool = True,
    progress: Report = lambda event: None,
) -> Bundle:
    """Build a verified bundle.

    Args:
        model: a folder written by `save_pretrained`, or "package.module:function" that returns an `nn.Module`; left
            out, the sentence encoder of the `demo` extra.
        target: name of a target (`edgellm targets`).
        formats: which of the target's formats; all if empty.
        scheme: what is quantized how: a scheme for every format, or several "format=scheme"; the target's own if None.
        layers: TOML or JSON file with a scheme for each layer, for the scheme "mixed" (see `edgellm.core.precision`).
        task: pipeline id; from the model's architecture if None.
        tokenizer: folder with tokenizer.json, where the model's has none.
        pooling: for feature-extraction: "mean", "cls" or "none".
        calibration: file of one text per line, or data like `eval`'s, for schemes that calibrate.
        ranges: how a static scheme chooses the range of an activation: "mse", "minmax", "percentile" or "entropy".
        golden: file of one text per line, like those that the product reads. The gate runs them in place of edgellm's
            own, and the bundle keeps them.
        eval: labelled examples: .tsv, .csv, .jsonl, or a saved dataset; its columns are the task's.
        max_drop: points that the task's first metric may lose on them, unless the loss may be noise; 1 if None.
        vocab_from: file of one text per line, like those that the product reads: the vocabulary keeps their pieces and
            single characters, and loses the rest, with its rows of the embedding table. These texts are answered as
            before, which is proven; others may be cut into smaller pieces and answered differently.
        alternatives: for ctc-seq2seq: likeliest tokens of a slot that the graph names; a search among them needs several.
        equalize: whether outlying channels are evened out, exactly in fp32, where a scheme gains by it.
        fit: whether weights are fitted to calibration texts where a scheme gains by it; if not, they are rounded to the
            nearest.
        correct_bias: whether biases make up for what rounding weights adds to a linear's mean output on calibration texts.
        max_fallback: share of the multiply-accumulates that may stay outside the delegate, from 0 to 1; where None, all
            may, but on an NPU none.
        min_agreement: the gate, from 0 to 1.
        min_exact: the gate's share of answers that are the source's to the letter, where answers are texts; as the task
            has it if None.
        seq_len: token counts to serve; the largest is the bundle's max_tokens.
        out: the bundle's folder; `<model>-<target>` if None.
        verify_on_device: whether the gate includes the target's own devices, which may be emulated.
        cache: whether results of earlier builds may be used, and are kept.
        progress: called when a stage starts and ends.

    Raises:
        EdgellmError: see `edgellm.errors`; no bundle was left or changed.

    """
    return build_timed(
        model, target=target, formats=formats, scheme=scheme, layers=layers, task=task, tokenizer=tokenizer, pooling=pooling,
        calibration=calibration, ranges=ranges, golden=golden, eval=eval, max_drop=max_drop, vocab_from=vocab_from,
        alternatives=alternatives, equalize=equalize, fit=fit, correct_bias=correct_bias, max_fallback=max_fallback,
        min_agreement=min_agreement, min_exact=min_exact, seq_len=seq_len, out=out,
        verify_on_device=verify_on_device, cache=cache, progress=progress,
    ).bundle  # fmt: skip


def build_timed(
    model: str | os.PathLike[str] | None, *, target: str, formats: Sequence[str], scheme: str | Sequence[str] | None,
    layers: str | os.PathLike[str] | None, task: str | None,
    tokenizer: str | os.PathLike[str] | None, pooling: str | None, calibration: str | os.PathLike[str] | None,
    ranges: str | None, golden: str | os.PathLike[str] | None, eval: str | os.PathLike[str] | None, max_drop: float | None,
    vocab_from: str | os.PathLike[str] | None, alternatives: int, equalize: bool, fit: bool, correct_bias: bool,
    max_fallback: float | None,
    min_agreement: float, min_exact: float | None, seq_len: Sequence[int] | None, out: str | os.PathLike[str] | None,
    verify_on_device: bool, cache: bool, progress: Report,
) -> Built:  # fmt: skip
    """Build as `build` does, and return the seconds per stage as well."""
    seconds: dict[str, float] = {}

    def report(event: Progress) -> None:
        if event.seconds is not None:
            seconds[event.stage] = event.seconds
        progress(event)

    with disk_errors(_UNCHANGED):
        store = Cache.default(enabled=cache)
    with disk_errors(_UNCHANGED), store.workspace() as work:
        store.tidy()
        log = store.root / "logs" / f"build-{time.time_ns()}-{os.getpid()}.log"
        with _stage("source", report):
            plan = resolve(
                None if model is None else os.fspath(model),
                target=target,
                formats=formats,
                schemes=() if scheme is None else (scheme,) if isinstance(scheme, str) else tuple(scheme),
                layers=layers,
                task=task,
                tokenizer=None if tokenizer is None else os.fspath(tokenizer),
                pooling=pooling,
                calibration=calibration,
                ranges=ranges,
                golden=golden,
                eval=eval,
                max_drop=max_drop,
                max_fallback=max_fallback,
                alternatives=alternatives,
                tuning=Tuning(equalize=equalize, fit=fit, correct_bias=correct_bias),
                min_agreement=min_agreement,
                min_exact=min_exact,
                seq_len=seq_len,
                out=out,
                vocab_from=vocab_from,
                describe=_describer(work, log),
            )
            devices = _devices(plan) if verify_on_device else []  # fmt: skip
        plan = trimmed(plan, pooling, store, work, log, report)
        entries = produce(plan, store, work, log, report)
        with _stage("gate", report):
            folder = gate(plan, entries, store, work)
        verified: tuple[Verification, ...] = ()
        if devices:
            with _stage("gate on devices", report):
                verified = verify_on(Bundle.open(folder), devices)
                for verification in verified:
                    judge_device(verification, plan.min_agreement, plan.min_exact)
        with _stage("package", report):
            bundle = publish(folder, plan.out)
        for verification in verified:
            _keep(bundle, verification)
    return Built(bundle, seconds, verified)


def _keep(bundle: Bundle, verification: Verification) -> None:
    try:
        write_verification(bundle, verification)
    except OSError as error:
        raise DeviceError(
            f"The bundle is finished in {bundle.path}, but the report about {verification.device} could not be kept: "
            f"{error.strerror or error}."
        ) from None


def _devices(plan: Plan) -> list[Device]:
    """Return the devices that the target names, all of them ready.

    Raises:
        UsageError: it names none.
        MissingDependencyError: one is not set up.

    """
    if not plan.target.devices:
        raise UsageError(
            f"--verify-on-device has no device: none is known for {plan.target.name}.",
            hint="'edgellm verify BUNDLE --device NAME' runs a bundle on any of 'edgellm devices'.",
        )
    devices = [open_device(name) for name in plan.target.devices]
    for device in devices:
        device.check([fmt for fmt in plan.formats if fmt in device.formats])
    return devices


@contextmanager
def _stage(name: str, report: Report) -> Iterator[None]:
    report(Progress(name))
    start = time.perf_counter()
    yield
    report(Progress(name, round(time.perf_counter() - start, 3)))


def _describer(work: Path, log: Path) -> Callable[[str], dict[str, Any]]:
    def describe(factory: str) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        folder = work / "describe"
        folder.mkdir()
        fields: dict[str, object] = {"kind": "describe", "factory": factory, "folder": str(folder)}
        run_jobs([Job("describe", fields, facts.update)], side_by_side=1, log=log, started=lambda name: None)
        return facts

    return describe
