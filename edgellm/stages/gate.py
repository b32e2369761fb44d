"""Gate: assemble the bundle, and run every artifact as it ships, on raw text, against the fp32 source."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from edgellm.abi import errors
from edgellm.abi.artifacts import examine_artifact, examined
from edgellm.backends import TOOLS, Lowered
from edgellm.core import strict
from edgellm.core.agreement import Agreement, AgreementMatrix
from edgellm.core.evaluation import Evaluation
from edgellm.core.manifest import SCHEMA_VERSION, Artifact, Calibration, Manifest, ModelInfo
from edgellm.device.host import Host
from edgellm.errors import GateError
from edgellm.runtime import engines
from edgellm.runtime.bundle import GOLDEN, TOKENIZER, Bundle, sha256_file
from edgellm.runtime.machine import cpu_identity
from edgellm.stages import package, verify
from edgellm.stages.cache import Cache, Entry, key_of, versions
from edgellm.stages.compare import compare
from edgellm.stages.examples import predictions, raw_inputs, texts_in
from edgellm.stages.judge import judge, judge_delegation
from edgellm.stages.plan import Plan
from edgellm.stages.produce import LABELLED, REFERENCE
from edgellm.tasks import load_task


def gate(plan: Plan, entries: dict[str, Entry], store: Cache, work: Path) -> Path:
    """Assemble the bundle in `work`, run every artifact as it ships, and return the finished folder.

    Raises:
        GateError: an artifact asks for more than the target's runtimes have, or falls short of the fp32 source.

    """
    folder = work / "bundle"
    folder.mkdir()
    reference = entries[REFERENCE].folder
    lowered = {fmt: strict.read(Lowered, entries[fmt].value, fmt) for fmt in plan.formats}
    for name in (TOKENIZER, GOLDEN):
        _link(reference / name, folder / name)
    for fmt in plan.formats:
        for name in lowered[fmt].files:
            _link(entries[fmt].folder / name, folder / name)
    said = [
        *plan.notes,
        *entries[REFERENCE].value["notes"],
        *(note for each in lowered.values() for note in each.notes),
    ]
    notes = list(dict.fromkeys(said))  # formats may say the same
    manifest = _manifest(plan, lowered, notes, folder)
    judge_delegation(manifest.artifacts, plan.max_fallback)
    _ensure_fit(plan, manifest, store, folder)
    measured = _measured(plan, manifest, store, folder, reference)
    artifacts = tuple(
        dataclasses.replace(
            artifact,
            agreement=_agreement(measured["agreement"].get(artifact.id)),
            evaluation=_evaluation(measured["evaluation"].get(artifact.id)),
        )
        for artifact in manifest.artifacts
    )
    table = strict.read(AgreementMatrix, measured["matrix"], "gate")
    judge(artifacts, table, plan.min_agreement, plan.max_drop, plan.min_exact)
    if measured["truncated"]:
        cut = f"{measured['truncated']} inputs of the labelled examples were cut to {plan.max_tokens} tokens."
        manifest = dataclasses.replace(manifest, notes=(*manifest.notes, cut))
    manifest = dataclasses.replace(manifest, artifacts=artifacts, matrix=table)
    package.write_card(folder, manifest)
    package.write_manifest(folder, dataclasses.replace(manifest, files=package.list_files(folder)))
    return folder


def _manifest(plan: Plan, lowered: dict[str, Lowered], notes: list[str], folder: Path) -> Manifest:
    """Return the manifest of files that are there, with nothing measured yet."""
    tools = sorted({tool for fmt in plan.formats for tool in TOOLS[plan.target.backend(fmt)]})
    return Manifest(
        schema_version=SCHEMA_VERSION,
        task=plan.source.task,
        task_options=plan.source.options,
        target=plan.target.name,
        model=ModelInfo(plan.source.name, plan.source.sha256, plan.source.parameters, plan.source.licence),
        tools=versions(("edgellm", *tools)),
        max_tokens=plan.max_tokens,
        min_agreement=plan.min_agreement,
        min_exact=plan.min_exact,
        files=package.list_files(folder),
        artifacts=tuple(_artifact(plan, fmt, lowered[fmt], folder) for fmt in plan.formats),
        matrix=AgreementMatrix((), ()),
        calibration=_calibration(plan),
        notes=tuple(notes),
    )


def _calibration(plan: Plan) -> Calibration | None:
    if not plan.calibration:
        return None
    digest = hashlib.sha256("\n".join(plan.calibration).encode()).hexdigest()
    static = {each.name for each in plan.precisions.values() if each.static}
    # 16 bits hold all that was seen.
    ranges = None if not static else "minmax" if static == {"a16w8"} else plan.ranges
    return Calibration(len(plan.calibration), digest, plan.own_calibration, ranges)


def _ensure_fit(plan: Plan, manifest: Manifest, store: Cache, folder: Path) -> None:
    """Raise if an artifact asks for more than the oldest runtime of the target has; nothing is loaded for it.

    Raises:
        GateError: one does.

    """
    key = key_of("fit", (), target=strict.plain(plan.target), files=strict.plain(manifest.files))
    with store.locked(key):
        entry = store.get(key)
        if entry is None:
            findings = {
                name: errors(examine_artifact(folder / name, artifact.format, plan.target))
                for artifact in manifest.artifacts
                for name in examined(artifact)
            }
            misfits = [
                {"file": name, "message": " ".join(item.message for item in found), "hint": found[0].hint}
                for name, found in findings.items()
                if found
            ]
            with store.workspace() as empty:
                entry = store.put(key, empty, {"misfits": misfits})
    for misfit in entry.value["misfits"]:
        raise GateError(f"{misfit['file']} does not fit {plan.target.name}: {misfit['message']}", hint=misfit["hint"])


def _measured(plan: Plan, manifest: Manifest, store: Cache, folder: Path, reference: Path) -> dict[str, Any]:
    """Return agreements, evaluations and matrix; what was measured of the same bytes on the same CPU is not run again."""
    key = key_of(
        "gate",
        ("numpy", "tokenizers", *(("scikit-learn", "scipy") if plan.labelled else ())),
        signatures=[strict.plain(artifact.signature) for artifact in manifest.artifacts],
        files=strict.plain(manifest.files),
        options=strict.plain(manifest.task_options),
        labelled=strict.plain(plan.labelled),
        cpu=cpu_identity(),
        engines=[engines.engine_version(a.format) for a in manifest.artifacts if engines.can_run(a)],
    )
    with store.locked(key):
        entry = store.get(key)
        if entry is None:
            package.write_manifest(folder, manifest)
            value = _measure(plan, Bundle.open(folder), reference)
            with store.workspace() as empty:
                entry = store.put(key, empty, value)
    return entry.value


def _measure(plan: Plan, bundle: Bundle, reference: Path) -> dict[str, Any]:
    """Run golden and evaluation texts through every artifact in the worker that ships."""
    device = Host()
    golden = list(bundle.golden())
    artifacts = [artifact for artifact in bundle.manifest.artifacts if engines.can_run(artifact)]
    ran = {artifact.id: verify.run_cases(bundle, artifact, golden, device) for artifact in artifacts}
    agreement = {
        artifact.id: strict.plain(verify.agree(bundle, golden, ran[artifact.id].values, artifact, device))
        for artifact in artifacts
    }
    evaluation: dict[str, object] = {}
    truncated = 0
    if plan.labelled:
        task, options = load_task(plan.source.task), plan.source.options
        examples = plan.labelled
        inputs, golds = raw_inputs(examples), [example.gold for example in examples]
        shown = [" ".join(texts_in([example])) for example in examples]
        with (reference / LABELLED).open(encoding="utf-8") as lines:
            source = predictions(examples, map(json.loads, lines), task, options)
        for artifact in artifacts:
            answered = verify.run_inputs(bundle, artifact, inputs, device)
            got = predictions(examples, answered.values, task, options)
            truncated = answered.truncated  # by the tokenizer, so the same for all
            compared = compare(golds, source, got, metrics=task.metrics, shown=shown, right=task.right)
            # The examples that flipped are the user's texts, which a bundle does not carry.
            evaluation[artifact.id] = strict.plain(dataclasses.replace(compared, flips=()))
    table = strict.plain(verify.matrix(bundle, golden, ran))
    return {"agreement": agreement, "evaluation": evaluation, "matrix": table, "truncated": truncated}


def _agreement(data: object) -> Agreement | None:
    return None if data is None else strict.read(Agreement, data, "gate")


def _evaluation(data: object) -> Evaluation | None:
    return None if data is None else strict.read(Evaluation, data, "gate")


def _artifact(plan: Plan, fmt: str, lowered: Lowered, folder: Path) -> Artifact:
    scheme = plan.precisions[fmt].name
    return Artifact(
        id=f"{fmt}-{scheme}",
        format=fmt,
        file=lowered.file,
        more_files=lowered.more_files,
        sha256=sha256_file(folder / lowered.file),
        bytes=sum((folder / name).stat().st_size for name in (lowered.file, *lowered.more_files)),
        reference=lowered.reference,
        npu=lowered.npu,
        scheme=scheme,
        delegate=plan.target.delegates[fmt],
        signature=lowered.signature,
        session_options=lowered.session_options,
        delegation=lowered.delegation,
        contents=lowered.contents,
        agreement=None,
    )


def _link(path: Path, link: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)
