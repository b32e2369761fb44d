"""Examines what a path names: one file, a bundle with everything that lies in it, or any folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgellm.abi import Examination, FileFacts, Finding, damage, elf, errors, executorch, qnn, tflite
from edgellm.abi.artifacts import artifact_facts, examined
from edgellm.abi.native import examine_native
from edgellm.abi.reader import opened
from edgellm.core.manifest import Manifest
from edgellm.core.target import RUNTIMES, Target
from edgellm.core.versions import contains, release
from edgellm.errors import InputError, UsageError
from edgellm.runtime.bundle import MANIFEST, REPORTS, Bundle
from edgellm.targets import load_target, target_names

_MOST_FILES = 20_000
"""A folder with more is no bundle and no library folder, but a file system."""

_HEAD = 4096
"""Bytes at the beginning of a file that tell what it is; a context binary's node begins there."""

_SUFFIXES = {".onnx": "onnx", ".tflite": "tflite", ".pte": "executorch", ".so": "native"}
_OTHER = {b"\xcf\xfa\xed\xfe": "a Mach-O file", b"\xca\xfe\xba\xbe": "a Mach-O file", b"MZ": "a Windows program"}


def examine(path: str | Path, *, target: str | None = None) -> Examination:
    """Return facts and findings of a file, a bundle or a folder.

    Args:
        path: what to examine.
        target: name of the target; of a bundle, the manifest's if left out. Without one, a file is compared with
            nothing, and only what no target wants is found.

    Raises:
        InputError: there is nothing at `path` that can be examined, or the one file is damaged.
        BundleError: the bundle's manifest is damaged.
        UsageError: no such target.
        MissingDependencyError: there is an ONNX file, and onnx is not installed.

    """
    where = Path(path)
    known = load_target(target) if target is not None else None
    if not str(path):
        raise InputError("The path is empty.", hint="Name a file, a bundle or a folder.")
    if not os.path.isdir(where):  # not Path's, which fails on a name that is too long
        facts, findings = _file(where, _kind(where), where.name, known)
        if facts is None:
            raise InputError(findings[0].message, hint=findings[0].hint)
        return _result(where, known, [facts], findings)
    if os.path.lexists(where / MANIFEST):
        return _bundle(where, known)
    found = list(_folder(where, known, frozenset()))
    if not found:
        raise InputError(
            f"{where} holds no native file and no artifact.", hint="Name a bundle, or a folder of libraries or models."
        )
    return _result(where, known, [facts for facts, _ in found], [f for _, findings in found for f in findings])


def _bundle(folder: Path, known: Target | None) -> Examination:
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    if known is None and manifest.target not in target_names():
        raise UsageError(
            f"{folder} was built for '{manifest.target}', which this edgellm does not know.",
            hint="Name one with --target; 'edgellm targets' lists all.",
        )
    target = known or load_target(manifest.target)
    facts: list[FileFacts | None] = []
    findings = list(_stated(manifest, target))
    for artifact in manifest.artifacts:
        for name in examined(artifact):
            read, found = artifact_facts(folder / name, artifact.format, name, target)
            facts.append(read)
            findings += found
    named = frozenset(name for artifact in manifest.artifacts for name in artifact.files)
    for read, found in _folder(folder, target, named):
        facts.append(read)
        findings += found
    return _result(folder, target, facts, findings)


def _stated(manifest: Manifest, target: Target) -> Iterator[Finding]:
    """Yield what the manifest says that can be compared with the target."""
    if manifest.target != target.name:
        yield Finding("bundle", "target", "ok", f"built for {manifest.target}, examined for {target.name}.")
    for artifact in manifest.artifacts:
        delegate = target.delegates.get(artifact.format)
        if delegate is None:
            continue  # the format is a finding already
        if artifact.delegate != delegate:
            yield Finding(
                artifact.file, "delegate", "error", f"built for {artifact.delegate}; {target.name} runs it with {delegate}.",
                "Build it for this target.",
            )  # fmt: skip
        for package in RUNTIMES.get(artifact.format, ()):
            version, bounds = manifest.tools.get(package), target.runtimes.get(package)
            if version is None or bounds is None:
                continue
            if contains(bounds, release(version)):
                yield Finding(
                    artifact.file, "runtime", "ok", f"verified with {package} {version}; {target.name} has {bounds}."
                )
            else:
                yield Finding(
                    artifact.file, "runtime", "warning",
                    f"verified with {package} {version}, and {target.name} has {bounds}: it was not run with any of those.",
                    "Build it with a version that the target has.",
                )  # fmt: skip


def _file(path: Path, kind: str, subject: str, target: Target | None) -> tuple[FileFacts | None, list[Finding]]:
    """Return facts and findings of one file; of a damaged one no facts, and the damage as a finding."""
    if kind != "native":
        return artifact_facts(path, kind, subject, target)
    try:
        return examine_native(path, subject, target)
    except InputError as error:
        return None, [damage(subject, error)]


def _folder(
    folder: Path, target: Target | None, skip: frozenset[str]
) -> Iterator[tuple[FileFacts | None, list[Finding]]]:
    """Yield what is found in the native files and artifacts of a folder, in order of their names."""
    for path in _files(folder):
        subject = path.relative_to(folder).as_posix()
        if subject in skip or subject.split("/")[0] == REPORTS:
            continue
        try:
            kind = _kind(path)
        except _UnknownKindError:
            continue
        except InputError as error:
            if _named(path):
                yield None, [damage(subject, error)]
            continue
        yield _file(path, kind, subject, target)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder; a link beside its library ("libx.so") would be the same file again."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} can't be read: {error.strerror}.", hint="Check its permissions.")

    seen = 0
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        seen += len(names) + len(folders)
        if seen > _MOST_FILES:
            raise InputError(f"{folder} has over {_MOST_FILES} files.", hint="Name a folder with fewer.")
        for name in sorted(names):
            path = Path(parent) / name
            if not path.is_symlink() and path.is_file():
                yield path


class _UnknownKindError(InputError):
    """A file that is nothing to examine: an error where it was named, nothing where it lies in a folder."""


def _kind(path: Path) -> str:
    """Return what a file is, by its first bytes; by its name where they say nothing.

    Raises:
        InputError: nothing that can be examined.

    """
    with opened(path) as reader:
        head = reader.at(0, min(_HEAD, reader.size))
    if head.startswith(elf.MAGIC):
        return "native"
    if head[4:8] == tflite.IDENTIFIER.encode():
        return "tflite"
    if head[4:6] == executorch.IDENTIFIER[:2].encode() and head[6:8].isdigit():
        return "executorch"
    named = _named(path)
    if named == "onnx" and qnn.NODE.encode() in head:
        return "qnn"
    if named == "native":
        raise InputError(f"{path} is called a library, and is no ELF file.", hint="Copy or build it again.")
    if named is not None:
        return named
    other = next((name for magic, name in _OTHER.items() if head.startswith(magic)), None)
    raise _UnknownKindError(
        f"{path} is {other or 'neither a native file nor an artifact'}, which can't be examined.",
        hint="ELF, .onnx, .tflite and .pte files can.",
    )


def _named(path: Path) -> str | None:
    """Return what a file's name says it is."""
    return "native" if ".so." in path.name else _SUFFIXES.get(path.suffix.lower())


def _result(
    path: Path, target: Target | None, facts: Sequence[FileFacts | None], findings: list[Finding]
) -> Examination:
    read = tuple(each for each in facts if each is not None)
    return Examination(str(path), target.name if target else None, not errors(findings), read, tuple(findings))
