"""Opens a bundle: reads its manifest strictly, keeps every path inside it, checks hashes before a file is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from edgellm.core import strict
from edgellm.core.manifest import SCHEMA_VERSION, Artifact, FileEntry, Manifest
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import BundleError, unknown
from edgellm.tasks import load_task, task_names

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.jsonl"
CARD = "README.md"
REPORTS = "reports"

_REBUILD = "Copy or build it again."


@dataclass(frozen=True)
class GoldenCase:
    """Raw input, feeds and outputs of the fp32 source, one entry per pass, and its value."""

    input: object
    feeds: tuple[Feeds, ...]
    outputs: tuple[Outputs, ...]
    value: object


@dataclass(frozen=True)
class Bundle:
    """A folder with a manifest.

    Attributes:
        path: the folder.
        manifest: what it says.

    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Return the bundle at `path` after checking schema and paths; hashes are checked by `use`.

        Raises:
            BundleError: there is no manifest, or it does not fit the schema, or names a path outside the folder.

        """
        folder = Path(path)
        manifest = read_manifest(folder)
        bundle = cls(folder, manifest)
        listed = [entry.path for entry in manifest.files]
        if len(set(listed)) != len(listed):
            raise BundleError(f"{folder}: a file is listed twice.", hint=_REBUILD)
        for name in [*listed, *(name for artifact in manifest.artifacts for name in artifact.files)]:
            bundle._inside(name)
        for name in (TOKENIZER, GOLDEN, *(name for artifact in manifest.artifacts for name in artifact.files)):
            if name not in listed:
                raise BundleError(f"{folder}: {name} is not among the files of the manifest.", hint=_REBUILD)
        if manifest.task not in task_names():
            raise BundleError(f"{folder}: this edgellm has no task '{manifest.task}'.", hint="Upgrade it.")
        output = load_task(manifest.task).OUTPUT
        if any(artifact.signature.outputs[0].name != output for artifact in manifest.artifacts):
            raise BundleError(
                f"{folder}: an artifact lacks the output '{output}' that {manifest.task} reads.", hint=_REBUILD
            )
        ids = [artifact.id for artifact in manifest.artifacts]
        if len(set(ids)) != len(ids) or not ids:
            raise BundleError(f"{folder}: artifact ids are missing or not unique.", hint=_REBUILD)
        for artifact in manifest.artifacts:
            entries = [bundle._entry(name) for name in artifact.deployed]
            size = sum(entry.bytes for entry in entries)
            if (entries[0].sha256, size) != (artifact.sha256, artifact.bytes):
                raise BundleError(f"{folder}: two digests or sizes for {artifact.file}.", hint=_REBUILD)
        return bundle

    def use(self, name: str) -> Path:
        """Return the path of a listed file whose size and hash were just checked.

        Raises:
            BundleError: it is not listed, missing, or not what was packaged.

        """
        entry = self._entry(name)
        path = self._inside(name)
        try:
            size = path.stat().st_size
            digest = sha256_file(path) if size == entry.bytes else ""
        except OSError as error:
            raise BundleError(f"{self.path}: {name} can't be read: {error.strerror}.", hint=_REBUILD) from None
        if size != entry.bytes:
            raise BundleError(f"{self.path}: {name} has {size} bytes, the manifest says {entry.bytes}.", hint=_REBUILD)
        if digest != entry.sha256:
            raise BundleError(f"{self.path}: {name} was altered: its SHA-256 is not the manifest's.", hint=_REBUILD)
        return path

    def use_all(self) -> None:
        """Check size and hash of every listed file, and that nothing else is there but `reports/`.

        Raises:
            BundleError: the first file that differs, or a file that the manifest does not list.

        """
        for entry in self.manifest.files:
            self.use(entry.path)
        listed = {entry.path for entry in self.manifest.files} | {MANIFEST}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            folder = path.is_dir() and not path.is_symlink()
            if name.split("/")[0] != REPORTS and not folder and name not in listed:
                raise BundleError(
                    f"{self.path}: {name} is not in the manifest.",
                    hint=f"Measurements belong in {REPORTS}/; remove what does not belong here.",
                )

    def artifact(self, fmt: str) -> Artifact:
        """Return the artifact of a format, or with that id.

        Raises:
            UsageError: the bundle has none; the message names what it has.

        """
        for artifact in self.manifest.artifacts:
            if fmt in (artifact.format, artifact.id):
                return artifact
        raise unknown("format", fmt, [a.format for a in self.manifest.artifacts], hint=f"{self.path} holds no other.")

    def golden(self) -> Iterator[GoldenCase]:
        """Yield the golden cases, after checking the hash of their file.

        Raises:
            BundleError: the file is not what was packaged, or a line does not parse.

        """
        path = self.use(GOLDEN)
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield golden_case(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                    raise BundleError(f"{self.path}: {GOLDEN} line {number} is wrong: {error}.") from None

    def _entry(self, name: str) -> FileEntry:
        for entry in self.manifest.files:
            if entry.path == name:
                return entry
        raise BundleError(f"{self.path}: {name} is not in the manifest.", hint=_REBUILD)

    def _inside(self, name: str) -> Path:
        """Return the path of a file named by the manifest, which must lie inside the bundle, links followed."""
        pure = PurePosixPath(name)
        plain = pure.parts and name == str(pure) and not pure.is_absolute() and ".." not in pure.parts
        if not plain or not _encodes(name) or "\\" in name or ":" in name or "\0" in name or name == MANIFEST:
            raise BundleError(f"{self.path}: the manifest names {name!r}, which is no path inside the bundle.")
        path = self.path / pure
        try:
            inside = path.resolve().is_relative_to(self.path.resolve())
        except (OSError, RuntimeError):  # a loop of links
            inside = False
        if not inside:
            raise BundleError(f"{self.path}: {name} leads out of the bundle.")
        return path


def _encodes(name: str) -> bool:
    """Tell whether a name is valid Unicode; half a surrogate pair is no file name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest in `folder`.

    Raises:
        BundleError: there is none, it is not JSON, its schema version is another, or it does not fit.

    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}.", hint="'edgellm build' makes one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} can't be read: {error}.", hint=_REBUILD) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise BundleError(
            f"{path} has schema version {version!r}; this edgellm reads {SCHEMA_VERSION}.",
            hint="Install the edgellm that built it, or build it again.",
        )
    try:
        return strict.read(Manifest, data, MANIFEST)
    except (strict.StrictError, RecursionError) as error:
        raise BundleError(f"{folder}: {error}.", hint=_REBUILD) from None


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    import hashlib  # not at the top: loading OpenSSL takes as long as loading tokenizers

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def golden_case(data: dict[str, object]) -> GoldenCase:
    """Return the golden case of one parsed line of golden.jsonl."""
    feeds = cast("list[dict[str, list[list[int]]]]", data["feeds"])
    outputs = cast("list[dict[str, list[object]]]", data["outputs"])
    return GoldenCase(
        input=data["input"],
        feeds=tuple(to_feeds(item) for item in feeds),
        outputs=tuple(to_outputs(item) for item in outputs),
        value=data["value"],
    )


def to_feeds(data: dict[str, list[list[int]]]) -> Feeds:
    """Return JSON feeds as int64 arrays [1, tokens]."""
    return {name: np.asarray(rows, dtype=np.int64) for name, rows in data.items()}


def to_outputs(data: dict[str, list[object]]) -> Outputs:
    """Return JSON outputs as float32 arrays."""
    return {name: np.asarray(rows, dtype=np.float32) for name, rows in data.items()}


def to_json(value: object) -> object:
    """Return a value with arrays in it as JSON-ready data.

    A float32 is written with the fewest digits that give it back: readable, exact and small.
    """
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32 and value.ndim:
            return [to_json(row) for row in value]
        return value.tolist()
    if isinstance(value, np.float32):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value
