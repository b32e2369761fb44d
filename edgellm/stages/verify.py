"""Verify: run artifacts in workers on raw text, and compare them with the fp32 source and with other devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from edgellm.core import strict
from edgellm.core.agreement import Agreement, AgreementMatrix, summarize
from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds
from edgellm.device import Device
from edgellm.device.host import Host
from edgellm.errors import BundleError, GateError, UsageError
from edgellm.runtime import engines
from edgellm.runtime.bundle import Bundle, GoldenCase, to_feeds
from edgellm.runtime.machine import Machine
from edgellm.stages.side_by_side import Watch, side_by_side
from edgellm.tasks import load_task

HOST = Host.name
"""The device that everything is compared with."""


@dataclass(frozen=True)
class Ran:
    """One artifact's answers to the golden cases on one device.

    Attributes:
        values: the task's answer to each case.
        engine: what computed them, with its version.
        machine: the device's own account of itself.

    """

    values: tuple[object, ...]
    engine: str
    machine: Machine


@dataclass(frozen=True)
class Verdict:
    """How one artifact did on one device.

    Attributes:
        id, format: of the artifact.
        ok: whether its agreements with the fp32 source and with this host reach the gate.
        engine: what ran it there, with its version.
        agreement: with the fp32 source.
        against: device name to the agreement with the same artifact there.

    """

    id: str
    format: str
    ok: bool
    engine: str
    agreement: Agreement
    against: dict[str, Agreement]


@dataclass(frozen=True)
class Verification:
    """How the artifacts of a bundle did on one device.

    Attributes:
        device: its name.
        emulated: whether an emulator ran them.
        ok: whether every artifact reaches the gate.
        machine: the device's own account of itself.
        artifacts: one verdict each.

    """

    device: str
    emulated: bool
    ok: bool
    machine: Machine
    artifacts: tuple[Verdict, ...]


Told = Callable[[str, str], None]
"""Called with a device's name and an artifact's id when the artifact's cases have run there."""


def verify_bundle(
    bundle: Bundle, device: Device, *, formats: Sequence[str] = (), cases: int | None = None
) -> Verification:
    """Verify on one device; see `verify_on`."""
    return verify_on(bundle, (device,), formats=formats, cases=cases)[0]


def verify_on(
    bundle: Bundle,
    devices: Sequence[Device],
    *,
    formats: Sequence[str] = (),
    cases: int | None = None,
    told: Told = lambda device, artifact: None,
) -> tuple[Verification, ...]:
    """Check every hash, then run golden cases from raw text through every artifact on every device.

    What runs elsewhere is also compared with the same artifact on this host and on the other devices.

    Args:
        bundle: to verify.
        devices: where artifacts run.
        formats: which; all of the bundle's that every device can run if empty.
        cases: how many golden cases; all if None.
        told: of progress.

    Raises:
        BundleError: a file is not what was packaged.
        GateError: the runtime's tokenizer gives other ids than the source's.
        UsageError: a device can't run a format that was asked for.
        MissingDependencyError: an engine, here or there, is not installed.
        DeviceError: a worker died or gave no answer.

    """
    bundle.use_all()
    named = {(artifact := bundle.artifact(fmt)).id: artifact for fmt in formats}
    everywhere = list(devices)
    if HOST not in {device.name for device in devices}:
        everywhere.insert(0, Host())
    runs = set(everywhere[0].formats).intersection(*(device.formats for device in everywhere))
    chosen = list(named.values()) or [a for a in bundle.manifest.artifacts if a.format in runs and engines.can_run(a)]
    never = sorted({artifact.format for artifact in chosen} - runs)
    if never or not chosen:
        raise UsageError(
            f"{' and '.join(device.name for device in devices)} can't run {' and '.join(never) or 'anything of this bundle'}.",
            hint=f"What can run there: {', '.join(sorted(runs))}.",
        )
    golden = list(islice(bundle.golden(), cases))
    if not golden:
        raise BundleError(f"{bundle.path} has no golden cases, so nothing can be verified.")
    for device in everywhere:
        device.check([artifact.format for artifact in chosen])
    ran = _run_all(bundle, chosen, golden, everywhere, told)
    return tuple(_verification(bundle, device, everywhere, chosen, golden, ran) for device in devices)


def _run_all(
    bundle: Bundle, artifacts: Sequence[Artifact], golden: Sequence[GoldenCase], devices: Sequence[Device], told: Told
) -> dict[tuple[str, str], Ran]:
    """Return what every artifact answered on every device."""
    remote = {device.name: device.push(bundle.path) for device in devices}

    def run(watch: Watch, device: Device, artifact: Artifact) -> Ran:
        done = run_cases(bundle, artifact, golden, device, remote=remote[device.name], watch=watch)
        told(device.name, artifact.id)
        return done

    work = [(device, artifact) for device in devices for artifact in artifacts]
    done = side_by_side([partial(run, device=device, artifact=artifact) for device, artifact in work])
    return {(device.name, artifact.id): ran for (device, artifact), ran in zip(work, done, strict=True)}


def _verification(
    bundle: Bundle, device: Device, devices: Sequence[Device], artifacts: Sequence[Artifact],
    golden: Sequence[GoldenCase], ran: dict[tuple[str, str], Ran],
) -> Verification:  # fmt: skip
    verdicts = []
    for artifact in artifacts:
        mine = ran[device.name, artifact.id]
        agreement = agree(bundle, golden, mine.values, artifact, device)
        against = {
            other.name: _compare(
                bundle, golden, ran[other.name, artifact.id].values, mine.values, describe(device, artifact)
            )
            for other in devices
            if other.name != device.name
        }
        # Another emulated CPU may be the one that is wrong; the fp32 source and the build host are the references.
        judged = (agreement, *(item for name, item in against.items() if name == HOST))
        gate = (bundle.manifest.min_agreement, bundle.manifest.min_exact)
        ok = not any(item.falls_short(*gate) for item in judged)
        verdicts.append(Verdict(artifact.id, artifact.format, ok, mine.engine, agreement, against))
    machine = ran[device.name, artifacts[0].id].machine
    return Verification(device.name, device.emulated, all(v.ok for v in verdicts), machine, tuple(verdicts))


def run_cases(
    bundle: Bundle, artifact: Artifact, golden: Sequence[GoldenCase], device: Device, *,
    remote: str | None = None, watch: Watch = lambda worker: worker,
) -> Ran:  # fmt: skip
    """Return an artifact's answers to the raw inputs of golden cases.

    Args:
        bundle, artifact: to run.
        golden: the cases.
        device: where.
        remote: the bundle's path there, if it was brought already.
        watch: is handed the worker.

    Raises:
        GateError: the tokenizer on the device gives other ids than the source's tokenizer gave.

    """
    values = []
    with watch(device.start(artifact.format)) as worker:
        path = remote or device.push(bundle.path)
        opened = worker.request("open", bundle=path, artifact=artifact.id, threads=1)
        for case in golden:
            reply = worker.request("run", input=case.input)
            if not _same(case.feeds, [to_feeds(item) for item in reply["feeds"]]):
                raise GateError(
                    f'The tokenizer on {device.name} gives other ids than the source\'s on "{shorten(case.input)}".',
                    hint="Check the version of tokenizers there (edgellm doctor).",
                )
            values.append(reply["value"])
    machine = strict.read(Machine, opened["machine"], "machine")
    return Ran(tuple(values), str(opened["engine"]), machine)


def _same(expected: Sequence[Feeds], got: Sequence[Feeds]) -> bool:
    """Tell whether two inputs have the same passes, id for id."""
    return len(expected) == len(got) and all(
        x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
        for x, y in zip(expected, got, strict=True)
    )


@dataclass(frozen=True)
class Answers:
    """What one artifact said to raw inputs.

    Attributes:
        values: in their order.
        truncated: how many inputs were cut to fit.

    """

    values: list[object]
    truncated: int


def run_inputs(
    bundle: Bundle, artifact: Artifact, inputs: Sequence[object], device: Device, *,
    remote: str | None = None, watch: Watch = lambda worker: worker,
) -> Answers:  # fmt: skip
    """Return an artifact's answers to raw inputs; `remote` and `watch` are as in `run_cases`."""
    with watch(device.start(artifact.format)) as worker:
        path = remote or device.push(bundle.path)
        worker.request("open", bundle=path, artifact=artifact.id, threads=1)
        replies = [worker.request("run", input=item) for item in inputs]
    return Answers([reply["value"] for reply in replies], sum(bool(reply["truncated"]) for reply in replies))


def agree(
    bundle: Bundle, golden: Sequence[GoldenCase], values: Sequence[object], artifact: Artifact, device: Device
) -> Agreement:
    """Return the agreement of an artifact's answers with the golden cases."""
    return _compare(bundle, golden, [case.value for case in golden], values, describe(device, artifact))


def _compare(
    bundle: Bundle, golden: Sequence[GoldenCase], expected: Sequence[object], values: Sequence[object], where: str
) -> Agreement:
    task, options = load_task(bundle.manifest.task), bundle.manifest.task_options
    scores = [task.agree(a, b, options) for a, b in zip(expected, values, strict=True)]
    return summarize(
        scores, [shown(case.input) for case in golden], metric=task.METRIC, device=where, exact=task.EXACT is not None
    )


def matrix(bundle: Bundle, golden: Sequence[GoldenCase], ran: dict[str, Ran]) -> AgreementMatrix:
    """Return the mean pairwise agreement of the fp32 source and all artifacts."""
    task, options = load_task(bundle.manifest.task), bundle.manifest.task_options
    columns = {"source": [case.value for case in golden], **{name: list(column.values) for name, column in ran.items()}}
    values = tuple(
        tuple(float(np.mean([task.agree(x, y, options) for x, y in zip(a, b, strict=True)])) for b in columns.values())
        for a in columns.values()
    )
    return AgreementMatrix(tuple(columns), values)


def describe(device: Device, artifact: Artifact) -> str:
    """Return what an artifact's agreement says it was measured on."""
    import platform

    if artifact.reference:
        return f"{artifact.reference}, which has the same integers, on {device.name} ({platform.machine()})"
    if device.name == HOST and engines.emulates(artifact):
        return f"the NPU vendor's emulation on the {device.name} ({platform.machine()})"
    return f"{device.name} ({platform.machine()})" if device.name == HOST else device.name


def shown(raw: object) -> str:
    """Return a raw input as text."""
    return raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)


def shorten(raw: object) -> str:
    """Return a raw input as text of one line and at most 60 characters, for messages."""
    clean = " ".join(shown(raw).split())
    return clean if len(clean) <= 60 else f"{clean[:60]}..."
