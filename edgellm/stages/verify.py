"""Verify: run artifacts in workers on raw text, and compare them with the fp32 source. The gate of a build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edgellm.core.agreement import Agreement, AgreementMatrix, Evaluation, summarize
from edgellm.core.manifest import Artifact
from edgellm.core.signature import Outputs
from edgellm.device import Device
from edgellm.errors import BundleError, GateError
from edgellm.runtime.bundle import Bundle, GoldenCase, to_feeds, to_outputs
from edgellm.tasks import load_task


@dataclass(frozen=True)
class Verdict:
    """How one artifact did on one device.

    Attributes:
        id, format: of the artifact.
        ok: whether it reaches the gate.
        agreement: with the fp32 source.

    """

    id: str
    format: str
    ok: bool
    agreement: Agreement


@dataclass(frozen=True)
class Verification:
    """How all artifacts of a bundle did on one device.

    Attributes:
        device: its name.
        emulated: whether an emulator ran them.
        ok: whether every artifact reaches the gate.
        artifacts: one verdict each.

    """

    device: str
    emulated: bool
    ok: bool
    artifacts: tuple[Verdict, ...]


def verify_bundle(
    bundle: Bundle, device: Device, *, formats: Sequence[str] = (), cases: int | None = None
) -> Verification:
    """Check every hash, then run golden cases from raw text through every artifact.

    Args:
        bundle: to verify.
        device: where artifacts run.
        formats: which; all of the bundle's if empty.
        cases: how many golden cases; all if None.

    Raises:
        BundleError: a file is not what was packaged.
        GateError: the runtime's tokenizer gives other ids than the source's.
        MissingDependencyError: an engine is not installed.

    """
    bundle.use_all()
    chosen = [bundle.artifact(fmt) for fmt in dict.fromkeys(formats)] or list(bundle.manifest.artifacts)
    golden = list(islice(bundle.golden(), cases))
    if not golden:
        raise BundleError(f"{bundle.path} has no golden cases, so nothing can be verified.")
    verdicts = []
    for artifact in chosen:
        outputs = run_cases(bundle, artifact, golden, device)
        agreement = agree(bundle, golden, outputs, device)
        ok = agreement.mean >= bundle.manifest.min_agreement
        verdicts.append(Verdict(artifact.id, artifact.format, ok, agreement))
    return Verification(device.name, device.emulated, all(v.ok for v in verdicts), tuple(verdicts))


def run_cases(
    bundle: Bundle, artifact: Artifact, golden: Sequence[GoldenCase], device: Device
) -> list[tuple[Outputs, ...]]:
    """Return an artifact's outputs on the raw inputs of golden cases.

    Raises:
        GateError: the tokenizer on the device gives other ids than the source's tokenizer gave.

    """
    outputs = []
    with device.start() as worker:
        worker.request("open", bundle=device.push(bundle.path), artifact=artifact.id, threads=1)
        for case in golden:
            reply = worker.request("run", input=case.input)
            for expected, got in zip(case.feeds, (to_feeds(item) for item in reply["feeds"]), strict=True):
                if expected.keys() != got.keys() or any(
                    not np.array_equal(expected[name], got[name]) for name in expected
                ):
                    raise GateError(
                        f'The tokenizer on {device.name} gives other ids than the source\'s on "{_short(case.input)}".',
                        hint="Check the version of tokenizers there (edgellm doctor).",
                    )
            outputs.append(tuple(to_outputs(item) for item in reply["outputs"]))
    return outputs


def run_texts(bundle: Bundle, artifact: Artifact, texts: Sequence[str], device: Device) -> list[Outputs]:
    """Return an artifact's outputs (of the first pass) on raw texts."""
    with device.start() as worker:
        worker.request("open", bundle=device.push(bundle.path), artifact=artifact.id, threads=1)
        return [to_outputs(worker.request("run", input=text)["outputs"][0]) for text in texts]


def agree(
    bundle: Bundle, golden: Sequence[GoldenCase], outputs: Sequence[tuple[Outputs, ...]], device: Device
) -> Agreement:
    """Return the agreement of an artifact's outputs with the golden cases."""
    task = load_task(bundle.manifest.task)
    scores = task.scores(
        [case.outputs[0] for case in golden], [item[0] for item in outputs], bundle.manifest.task_options
    )
    return summarize(scores, [str(case.input) for case in golden], metric=task.METRIC, device=describe(device))


def matrix(
    bundle: Bundle, golden: Sequence[GoldenCase], outputs: dict[str, list[tuple[Outputs, ...]]]
) -> AgreementMatrix:
    """Return the mean pairwise agreement of the fp32 source and all artifacts."""
    task = load_task(bundle.manifest.task)
    columns = {"source": [case.outputs[0] for case in golden]}
    columns |= {artifact: [item[0] for item in column] for artifact, column in outputs.items()}
    values = tuple(
        tuple(float(np.mean(task.scores(a, b, bundle.manifest.task_options))) for b in columns.values())
        for a in columns.values()
    )
    return AgreementMatrix(tuple(columns), values)


def describe(device: Device) -> str:
    """Return what an agreement says it was measured on."""
    import platform

    return f"{device.name} ({platform.machine()})" if not device.emulated else device.name


def gate(artifacts: Sequence[Artifact], table: AgreementMatrix, min_agreement: float) -> None:
    """Raise if an artifact does not agree with the fp32 source well enough.

    Raises:
        GateError: one falls short; the message says by how much, on which text, and what to try.

    """
    short = [a for a in artifacts if not a.agreement.mean >= min_agreement]
    dropped = [a for a in artifacts if a.evaluation and _drop(a.evaluation) > 1 - min_agreement + 1e-9]
    if not short and not dropped:
        return
    lines = []
    for artifact in short:
        agreement = artifact.agreement
        lines.append(
            f"{artifact.format} {artifact.scheme} agrees with the fp32 model by {agreement.mean:.4f} (mean "
            f"{agreement.metric} of {agreement.n} texts; the gate is {min_agreement:g}), worst "
            f'{agreement.min:.4f} on "{_short(agreement.worst)}".'
        )
    for artifact in dropped:
        assert artifact.evaluation is not None
        measured = artifact.evaluation
        lines.append(
            f"{artifact.format} {artifact.scheme} has an {measured.metric} of {measured.value:.4f} on {measured.n} "
            f"labelled texts, the fp32 model {measured.source:.4f}."
        )
    lines += ["", "Mean agreement of each pair:", *_table(table)]
    if len(table.names) > 2:
        odd = table.odd_one_out()
        lines.append(
            "The artifacts agree with each other and not with the source: the scheme is to blame, not one format."
            if odd == "source"
            else f"The odd one out is {odd}."
        )
    raise GateError("\n".join(lines), hint=_advice(short or dropped))


def _drop(measured: Evaluation) -> float:
    return measured.source - measured.value


def _advice(artifacts: Sequence[Artifact]) -> str:
    schemes = {artifact.scheme for artifact in artifacts}
    if "fp32" in schemes:
        return "fp32 should agree to rounding: the conversion itself is wrong; please report it."
    if "int8-dynamic" in schemes:
        return "\nTry --scheme int8-weight-only, another --format, or --scheme fp32 to see whether quantizing is the cause."
    return "\nTry --scheme fp32 to see whether quantizing is the cause."


def _table(table: AgreementMatrix) -> Iterator[str]:
    width = max(map(len, table.names))
    yield " " * width + "  " + "  ".join(f"{name:>{max(len(name), 6)}}" for name in table.names)
    for name, row in zip(table.names, table.values, strict=True):
        cells = (f"{v:>{max(len(n), 6)}.4f}" for v, n in zip(row, table.names, strict=True))
        yield f"{name:<{width}}  " + "  ".join(cells)


def _short(text: object) -> str:
    clean = " ".join(str(text).split())
    return clean if len(clean) <= 60 else f"{clean[:60]}..."
