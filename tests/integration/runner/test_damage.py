"""Damaged bundles: the native runner refuses each with its cause before anything of it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.core.manifest import Artifact
from tests.integration.runner.driving import EXIT, edit, entry, run, seal, worker

pytestmark = pytest.mark.integration


def altered(folder: Path, artifact: Artifact) -> None:
    with (folder / artifact.file).open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))


def truncated(folder: Path, artifact: Artifact) -> None:
    os.truncate(folder / artifact.file, artifact.bytes - 1)


def missing(folder: Path, artifact: Artifact) -> None:
    (folder / artifact.file).unlink()


def a_folder(folder: Path, artifact: Artifact) -> None:
    missing(folder, artifact)
    (folder / artifact.file).mkdir()


def a_pipe(folder: Path, artifact: Artifact) -> None:
    missing(folder, artifact)
    os.mkfifo(folder / artifact.file)


def a_link_out(folder: Path, artifact: Artifact) -> None:
    path = folder / artifact.file
    path.rename(folder.parent / "elsewhere.pte")
    path.symlink_to(folder.parent / "elsewhere.pte")


def renamed(name: str) -> Callable[[Path, Artifact], None]:
    def change(folder: Path, artifact: Artifact) -> None:
        def edited(manifest: dict[str, Any]) -> None:
            entry(manifest, artifact.file)["path"] = name
            next(item for item in manifest["artifacts"] if item["id"] == artifact.id)["file"] = name

        edit(folder, edited)

    return change


def manifest_with(**fields: object) -> Callable[[Path, Artifact], None]:
    return lambda folder, artifact: edit(folder, lambda manifest: manifest.update(fields))


def written(text: bytes) -> Callable[[Path, Artifact], None]:
    def change(folder: Path, artifact: Artifact) -> None:
        (folder / "manifest.json").write_bytes(text)

    return change


def replaced(old: bytes, new: bytes) -> Callable[[Path, Artifact], None]:
    """Plant a program that asks for something else, with hashes that are right."""

    def change(folder: Path, artifact: Artifact) -> None:
        path = folder / artifact.file
        content = path.read_bytes()
        assert old in content
        assert len(old) == len(new)
        path.write_bytes(content.replace(old, new))
        seal(folder, artifact)

    return change


def garbage(folder: Path, artifact: Artifact) -> None:
    (folder / artifact.file).write_bytes(b"no program" * 1000)
    seal(folder, artifact)


def half(folder: Path, artifact: Artifact) -> None:
    os.truncate(folder / artifact.file, artifact.bytes // 2)
    seal(folder, artifact)


def a_link_to_itself(folder: Path, artifact: Artifact) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("manifest.json")


def a_bucket(length: int) -> Callable[[Path, Artifact], None]:
    def change(folder: Path, artifact: Artifact) -> None:
        edit(folder, lambda manifest: manifest["artifacts"][0]["signature"].update(buckets=[length]))

    return change


DAMAGES = [
    (altered, "was altered: its SHA-256 is not the manifest's"),
    (truncated, "bytes, the manifest says"),
    (missing, "can't be read: No such file or directory"),
    (a_folder, "can't be read: Is a directory"),
    (a_pipe, "can't be read: it is no regular file"),
    (a_link_out, "leads out of the bundle"),
    (renamed("../bundle/model.pte"), "which is no path inside the bundle"),
    (renamed("/etc/hostname"), "which is no path inside the bundle"),
    (renamed("a//b"), "which is no path inside the bundle"),
    (renamed("nul\0.pte"), "which is no path inside the bundle"),
    (renamed("manifest.json"), "which is no path inside the bundle"),
    (manifest_with(schema_version=2), "has schema version 2; this runner reads 1"),
    (manifest_with(schema_version=True), "has schema version true"),
    (manifest_with(max_tokens=0), "max_tokens is no length"),
    (manifest_with(max_tokens="128"), "'max_tokens' is string, not a whole number"),
    (manifest_with(files=[]), "is not among the files of the manifest"),
    (manifest_with(artifacts=[]), "artifact ids are missing"),
    (manifest_with(artifacts=[7]), "an object with 'id' is needed"),
    (written(b""), "can't be read"),
    (written(b"[" * 100_000), "deeper than 64 levels"),
    (written(b"{}"), "has schema version null"),
    (written(b" " * ((16 << 20) + 1)), "it is larger than 16 MiB"),
    (written(json.dumps({str(n): n for n in range(600_000)}).encode()), "has schema version null"),  # in linear time
    (a_link_to_itself, "manifest.json can't be read: Too many levels of symbolic links"),
    (a_bucket(2**31), "buckets: lengths are positive and ascend"),
    (garbage, "ExecuTorch can't load"),
    (half, "ExecuTorch can't load"),
    (
        replaced(b"quantized_decomposed::embedding_byte", b"quantized_decomposed::embedding_bite"),
        "0x14 OperatorMissing",
    ),
    (replaced(b"XnnpackBackend", b"XnnpackBackenb"), "0x20 NotFound"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[f"{n} {words}" for n, (_, words) in enumerate(DAMAGES)])
def test_a_damaged_bundle_is_refused_with_the_cause(
    program: Path, copied: Path, artifact: Artifact, damage: Callable[[Path, Artifact], None], words: str
) -> None:
    damage(copied, artifact)
    done = run(program, "bench", str(copied), "--tokens", "4", "--runs", "1")
    assert (done.returncode, words in done.stderr) == (EXIT["BundleError"], True), done.stderr
    assert done.stdout == ""
    with worker(program) as ask:
        request = {"op": "open", "bundle": str(copied), "artifact": artifact.id}
        error = ask(json.dumps(request).encode())["error"]
        assert error["kind"] == "BundleError"
        assert words in error["message"]


def test_golden_cases_are_checked_before_they_are_used(program: Path, copied: Path) -> None:
    with (copied / "golden.jsonl").open("a") as file:
        file.write("\n")
    done = run(program, "golden", str(copied))
    assert (done.returncode, "golden.jsonl has" in done.stderr) == (EXIT["BundleError"], True)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0], [0.5] * 383], "an output is no regular array"),
        ([[0.5] * 383, [1.0]], "an output is no regular array"),
        ([0.5, [0.5]], "an output is no regular array"),
        ([[0.5], 0.5], "an output is no regular array"),
        ([[], [0.5] * 384], "an output is no regular array"),
        ([["x"]], "an output holds something that is no number"),
        ([], "an output is empty"),
        ([[]], "an output is empty"),
        ([0.5] * 384, "gives [1, 384] where the golden case has [384]"),
        ([[0.5]] * 384, "gives [1, 384] where the golden case has [384, 1]"),
        ([[0.5] * 385], "gives [1, 384] where the golden case has [1, 385]"),
    ],
)
def test_a_golden_case_of_another_shape_is_refused(
    program: Path, copied: Path, artifact: Artifact, rows: list[object], words: str
) -> None:
    case = json.loads((copied / "golden.jsonl").read_text().splitlines()[0])
    case["outputs"][0]["embedding"] = rows
    (copied / "golden.jsonl").write_text(json.dumps(case) + "\n")
    seal(copied, artifact)
    done = run(program, "golden", str(copied))
    assert (done.returncode, words in done.stderr) == (EXIT["BundleError"], True), done.stderr


def test_a_golden_case_that_is_too_long_is_refused(program: Path, copied: Path, artifact: Artifact) -> None:
    (copied / "golden.jsonl").write_bytes(b" " * (64 << 20) + b"1\n")
    seal(copied, artifact)
    done = run(program, "golden", str(copied))
    assert (done.returncode, "line 1 is wrong: it is longer than 64 MiB" in done.stderr) == (EXIT["BundleError"], True)
