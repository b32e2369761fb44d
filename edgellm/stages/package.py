"""Package: a folder of finished files becomes a bundle, at once or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from edgellm.core import strict
from edgellm.core.manifest import Artifact, FileEntry, Manifest
from edgellm.errors import BundleError, UsageError
from edgellm.runtime import engines
from edgellm.runtime.bundle import CARD, MANIFEST, REPORTS, Bundle, sha256_file
from edgellm.stages.put import check_parent, put

GIVEN_GOLDEN = "The golden cases are"
"""How a manifest's note about golden texts that were given to the build begins."""


def check_out(out: Path) -> None:
    """Check that a bundle may be written to `out`: a new folder, an empty one, or a bundle to replace.

    Raises:
        UsageError: something else is there; it is never emptied.

    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} exists and is no folder.", hint="Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not _is_bundle(out):
        raise UsageError(
            f"{out} holds something that is no bundle, or a bundle and something else, and is left alone.",
            hint="Choose another --out.",
        )
    check_parent(out)


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Return an entry for every file a bundle's manifest lists, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [(path, path.relative_to(folder).as_posix()) for path in paths]
    return tuple(
        FileEntry(name, path.stat().st_size, sha256_file(path))
        for path, name in names
        if name != MANIFEST and name.split("/")[0] != REPORTS
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json; the same manifest gives the same bytes."""
    text = json.dumps(strict.plain(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the bundle's README.md: what it is, what was measured, how to run it."""
    (folder / CARD).write_text(_card(manifest), encoding="utf-8")


def publish(folder: Path, out: Path) -> Bundle:
    """Move a finished folder to `out`, replacing the bundle that was there in one step.

    The copy is made beside `out`, so that the last step is a rename on one file system; a build that is killed
    before it leaves the old bundle as it was. An identical bundle is left alone, with its reports.

    Args:
        folder: a finished bundle.
        out: the bundle's folder.

    Raises:
        OSError: the disk is full or can't be written to; `out` is as it was.

    """
    manifest = (folder / MANIFEST).read_bytes()
    if out.is_dir() and (out / MANIFEST).is_file() and (out / MANIFEST).read_bytes() == manifest and _intact(out):
        return Bundle.open(out)
    put(folder, out, check=check_out, old=lambda old: _keep_reports(old, out.absolute()))
    return Bundle.open(out)


def _keep_reports(old: Path, out: Path) -> None:
    """Move the reports about a bundle that was replaced beside the new one: measurements are not thrown away."""
    reports = old / REPORTS
    if reports.is_dir() and any(reports.iterdir()):
        digest = sha256_file(old / MANIFEST)[:12]
        reports.rename(out.with_name(f"{out.name}.reports-{digest}"))


def _is_bundle(folder: Path) -> bool:
    """Tell whether a folder holds a bundle and nothing else; whatever else is in it would be lost."""
    try:
        listed = {entry.path for entry in Bundle.open(folder).manifest.files} | {MANIFEST}
    except BundleError:
        return False
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return all(path.as_posix() in listed or path.parts[0] == REPORTS for path in found)


def _intact(out: Path) -> bool:
    try:
        Bundle.open(out).use_all()
    except Exception:  # whatever is wrong with it, it gets replaced
        return False
    return True


def notes_of(manifest: Manifest) -> list[str]:
    """Return what a reader of the figures has to know, in sentences."""
    notes = list(manifest.notes)
    if manifest.calibration is not None and not manifest.calibration.own:
        notes.append(
            f"Tuned on edgellm's own {manifest.calibration.texts} texts; --calibration takes texts of your domain."
        )
    return notes


def _card(manifest: Manifest) -> str:
    rows = [
        f"| `{a.file}` | {a.format} | {a.scheme} | {a.delegate} | {a.bytes / 1e6:.1f} | "
        + (f"{a.agreement.mean:.4f} | {a.agreement.min:.4f} |" if a.agreement else "not run | not run |")
        for a in manifest.artifacts
    ]
    first = next((a for a in manifest.artifacts if engines.can_run(a)), None)
    tools = ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))
    evaluated = [
        f"- {a.format}: {a.evaluation.metric} {a.evaluation.value:.4f} (fp32 source {a.evaluation.source:.4f}, "
        f"{a.evaluation.n} texts): {a.evaluation.drop}"
        for a in manifest.artifacts
        if a.evaluation
    ]
    return "\n".join(
        [
            f"# {manifest.model.name} for {manifest.target}",
            "",
            f"A bundle made by edgellm: `{manifest.task}`, texts of up to {manifest.max_tokens} tokens (longer ones are cut, "
            "and the result says so), one forward pass.",
            "",
            "| file | format | scheme | delegate | MB | mean agreement | min |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            *_measured(manifest),
            *(["", *(f"- {note}" for note in notes_of(manifest))] if notes_of(manifest) else []),
            *(["", "On the labelled texts given to the build:", "", *evaluated] if evaluated else []),
            "",
            *(
                _how_to_run(first)
                if first
                else ["Nothing here runs on this kind of machine: an app's own runtime does."]
            ),
            "",
            "## Where it comes from",
            "",
            f"- Model: {manifest.model.name}, {manifest.model.parameters:,} parameters, licence "
            f"{manifest.model.licence or 'not stated by its source'}, SHA-256 of the source `{manifest.model.source_sha256}`.",
            f"- Golden cases: {_whose(manifest)}, answered by the fp32 source.",
            f"- Made with {tools}.",
            "",
        ]
    )


def _whose(manifest: Manifest) -> str:
    if any(note.startswith(GIVEN_GOLDEN) for note in manifest.notes):
        return "texts that were given to the build, under a licence that it does not know"
    return "texts written for the edgellm project (Apache-2.0), no user's"


def _measured(manifest: Manifest) -> list[str]:
    """Return what the agreements are, and on what they were measured."""
    ran = [a.agreement for a in manifest.artifacts if a.agreement]
    if not ran:
        return ["No artifact was run: nothing on the build host runs them."]
    devices = " and ".join(dict.fromkeys(agreement.device for agreement in ran))
    return [
        f"Agreement is {ran[0].metric} with the fp32 source model over {ran[0].n} golden cases, from raw "
        f"text, measured on {devices}. It is no measurement on the target device: "
        "`edgellm verify` makes one there, and `edgellm bench` measures latency."
    ]


def _how_to_run(artifact: Artifact) -> list[str]:
    return [
        "## How to run it",
        "",
        f"    pip install 'edgellm[{artifact.format}]'",
        '    edgellm run . "some text"',
        "",
        "or in Python:",
        "",
        "    from edgellm.runtime import Session",
        "",
        f'    result = Session.open(".", format="{artifact.format}")("some text")',
    ]
