"""Brings edgellm's own runtime to an emulated device: the files that run there are those that ship."""

from __future__ import annotations

import compileall
import contextlib
import hashlib
import os
import py_compile
import shutil
import tempfile
from pathlib import Path

from edgellm.folders import cache_dir

_PACKAGE = Path(__file__).resolve().parent.parent
_PARTS = ("__init__.py", "errors.py", "folders.py", "plugins.py", "core", "runtime", "tasks")
"""What `edgellm.runtime` is made of. Backends, stages and texts stay behind, so that an import of them would show."""
_KEEP = 8


def pushed_runtime() -> Path:
    """Return a folder for the emulated module path that holds edgellm's runtime, named by its content."""
    files = _files()
    digest = hashlib.sha256()
    for name, path in files.items():
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    root = cache_dir() / "emulation" / "pushed"
    folder = root / digest.hexdigest()[:24]
    if folder.is_dir():
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="tmp-") as work:
        made = Path(work) / "made"
        for name, path in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, made / name)
        compile_tree(made)
        with contextlib.suppress(OSError):  # another process was first: the same files are there
            made.rename(folder)
    _tidy(root)
    return folder


def compile_tree(folder: Path) -> None:
    """Compile every module of a tree here, as emulation makes that slow; this Python's bytecode is the device's.

    The bytecode is not checked against its source: nothing changes such a tree.
    """
    compileall.compile_dir(
        folder, quiet=2, stripdir=folder, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def _files() -> dict[str, Path]:
    """Return path on the device to path here, sorted."""
    found = {}
    for part in _PARTS:
        root = _PACKAGE / part
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and path.suffix in (".py", ".json", ".toml", ".txt"):
                found[f"edgellm/{path.relative_to(_PACKAGE).as_posix()}"] = path
    return found


def _tidy(root: Path) -> None:
    """Remove the longest unused of earlier versions."""
    with contextlib.suppress(OSError):
        folders = sorted((p for p in root.iterdir() if not p.name.startswith("tmp-")), key=lambda p: -p.stat().st_mtime)
        for folder in folders[_KEEP:]:
            shutil.rmtree(folder, ignore_errors=True)
