"""Any manifest, however wrong, is opened or refused: no other exception, and not one byte read outside the bundle."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgellm.errors import BundleError
from edgellm.runtime.bundle import Bundle
from tests.tiny import tiny_bundle

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", ".", "..", "../x", "/etc/passwd", "a/../../b", "manifest.json", "a\0", "\ud800", "x" * 5000]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
PATHS = st.text(st.sampled_from("ab./\\:\0\ud800é "), max_size=8)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle, and outside it the right bytes, which a wrong path or the link to them could reach."""
    folder = tmp_path_factory.mktemp("fuzz")
    bundle = tiny_bundle(folder / "bundle", others=("tflite",)).path
    first = json.loads((bundle / "manifest.json").read_text())["files"][0]["path"]
    for name in ("x", "a", "b"):
        shutil.copy(bundle / first, folder / name)
    (bundle / "a").symlink_to(folder / "x")
    return bundle


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside `data`."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


_watch: list[Path] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watch is not None and event == "open" and isinstance(args[0], (str, bytes)):
        _watch.append(Path(str(args[0])))


sys.addaudithook(_audit)  # can't be removed; costs one comparison per event


@contextmanager
def opened_files() -> Iterator[list[Path]]:
    """Collect the path of every file that is opened."""
    global _watch
    _watch = found = []
    try:
        yield found
    finally:
        _watch = None


def open_and_use(folder: Path, text: str) -> None:
    """Open a bundle with this manifest and use what it lists, which raises BundleError or nothing."""
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with opened_files() as seen:
        try:
            bundle = Bundle.open(folder)
            for entry in bundle.manifest.files:
                bundle.use(entry.path)
            bundle.use_all()
        except BundleError:
            pass
    outside = [path for path in seen if not path.resolve().is_relative_to(folder)]
    assert not outside
    assert seen


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_random_changes_is_opened_or_refused(sandbox: Path, data: st.DataObject) -> None:
    manifest = json.loads(_valid(sandbox))
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(manifest))))
        inner = manifest
        for step in parents:
            inner = inner[step]
        action = data.draw(st.sampled_from(["set", "drop", "copy"]))
        if action == "set":
            inner[last] = data.draw(VALUES)
        elif action == "drop":
            del inner[last]
        elif isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
    open_and_use(sandbox, json.dumps(manifest))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=PATHS, artifact=st.booleans())
@example(name="../x", artifact=True)
@example(name="a", artifact=False)
@example(name="\ud800", artifact=False)
def test_no_path_in_a_manifest_leads_outside(sandbox: Path, name: str, artifact: bool) -> None:
    manifest = json.loads(_valid(sandbox))
    manifest["files"][0]["path"] = name
    if artifact:
        manifest["artifacts"][0].update(file=name, **{k: manifest["files"][0][k] for k in ("bytes", "sha256")})
    open_and_use(sandbox, json.dumps(manifest))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), cut=st.integers(0, 30), put=st.text(max_size=5))
def test_a_manifest_with_damaged_bytes_is_opened_or_refused(sandbox: Path, at: float, cut: int, put: str) -> None:
    text = _valid(sandbox)
    position = int(at * len(text))
    damaged = text[:position] + put + text[position + cut :]
    open_and_use(sandbox, damaged.encode("utf-8", "replace").decode())


_VALID: dict[Path, str] = {}


def _valid(folder: Path) -> str:
    """Return the manifest as it was before the first test."""
    return _VALID.setdefault(folder, (folder / "manifest.json").read_text(encoding="utf-8"))
