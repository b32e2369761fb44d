"""The cache: what is in it is whole, what is damaged is made again, and builds side by side don't harm each other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm.errors import EdgellmError, MissingDependencyError
from edgellm.stages.cache import Cache, alive, key_of, versions

DEAD = "2147483646"  # beyond the largest process number that Linux gives


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fill(cache: Cache, key: str, size: int = 10, **value: object) -> Path:
    with cache.workspace() as work:
        (work / "model.onnx").write_bytes(b"x" * size)
        return cache.put(key, work, value).folder


def test_what_was_put_is_got(cache: Cache) -> None:
    assert cache.get("k") is None
    folder = fill(cache, "k", total_ops=3)
    entry = cache.get("k")
    assert entry is not None
    assert (entry.folder, entry.value) == (folder, {"total_ops": 3})
    assert (entry.folder / "model.onnx").read_bytes() == b"x" * 10
    assert list((cache.root / "tmp").iterdir()) == []


def test_a_newer_result_replaces_the_older(cache: Cache) -> None:
    fill(cache, "k", 10, n=1)
    fill(cache, "k", 20, n=2)
    entry = cache.get("k")
    assert entry is not None
    assert entry.value == {"n": 2}
    assert (entry.folder / "model.onnx").stat().st_size == 20


def test_files_in_folders_are_kept_and_checked_as_well(cache: Cache) -> None:
    with cache.workspace() as work:
        (work / "model" / "1_Pooling").mkdir(parents=True)
        (work / "model" / "1_Pooling" / "config.json").write_text("{}")
        folder = cache.put("k", work, {}).folder
    assert cache.get("k") is not None
    (folder / "model" / "1_Pooling" / "config.json").write_text('{"changed": 1}')
    assert cache.get("k") is None
    assert not folder.exists()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: _flip(f / "model.onnx"),
        lambda f: (f / "model.onnx").unlink(),
        lambda f: (f / "model.onnx").write_bytes(b""),
        lambda f: (f / "entry.json").unlink(),
        lambda f: (f / "entry.json").write_text("{"),
        lambda f: (f / "entry.json").write_bytes(b"\xff"),
        lambda f: (f / "entry.json").write_text("[]"),
        lambda f: (f / "entry.json").write_text('{"files": {}}'),
        lambda f: (f / "entry.json").write_text('{"files": [], "value": {}}'),
        lambda f: (f / "entry.json").write_text('{"files": {"model.onnx": 5}, "value": {}}'),
    ],
    ids=[
        "altered",
        "missing",
        "emptied",
        "no record",
        "half a record",
        "no text",
        "list",
        "no value",
        "no files",
        "number",
    ],
)
def test_a_damaged_entry_is_dropped_and_made_again(cache: Cache, damage: object) -> None:
    folder = fill(cache, "k")
    damage(folder)  # type: ignore[operator]
    assert cache.get("k") is None
    assert not folder.exists()
    fill(cache, "k")
    assert cache.get("k") is not None


def test_a_failed_stage_leaves_nothing(cache: Cache) -> None:
    def failing_stage() -> None:
        with cache.workspace() as work:
            (work / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_stage()
    assert list((cache.root / "tmp").iterdir()) == []
    assert list((cache.root / "entries").iterdir()) == []


def test_a_disabled_cache_finds_and_keeps_nothing(tmp_path: Path) -> None:
    fill(Cache(tmp_path), "k")
    off = Cache(tmp_path, enabled=False)
    assert off.get("k") is None
    with off.workspace() as work:
        (work / "model.onnx").write_text("new")
        entry = off.put("k2", work, {"n": 1})
        assert (entry.folder, entry.value) == (work, {"n": 1})
        assert (entry.folder / "model.onnx").read_text() == "new"
    assert not work.exists()
    with off.locked("k"), off.locked("k"):
        pass  # takes no lock, so can't wait for itself
    assert [f.name for f in (tmp_path / "entries").iterdir()] == ["k"]


COMPUTE = """
import sys, time
from pathlib import Path
from edgellm.stages.cache import Cache
root, mark = map(Path, sys.argv[1:])
cache = Cache(root)
with cache.locked("k"):
    entry = cache.get("k")
    if entry is None:
        with mark.open("a") as file:
            file.write("computed\\n")
        time.sleep(0.3)
        with cache.workspace() as work:
            (work / "model.onnx").write_text("x")
            entry = cache.put("k", work, {})
assert (entry.folder / "model.onnx").read_text() == "x"
"""


def test_of_two_processes_that_want_the_same_one_computes(cache: Cache, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = [sys.executable, "-P", "-c", COMPUTE, str(cache.root), str(mark)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=30) for process in both] == [0, 0]
    assert mark.read_text() == "computed\n"


def age(path: Path, seconds: int) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_longest_unused_entries_go_first(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"a": 300, "b": 200, "c": 100}.items():
        age(fill(cache, name, 1000), seconds)
    assert cache.get("a") is not None  # used now, so no longer the oldest
    monkeypatch.setenv("EDGELLM_CACHE_MAX_BYTES", "2500")
    cache.tidy()
    assert sorted(f.name for f in (cache.root / "entries").iterdir()) == ["a", "c"]
    assert list((cache.root / "tmp").iterdir()) == []


def test_under_its_limit_nothing_is_dropped(cache: Cache) -> None:
    fill(cache, "a")
    cache.tidy()
    assert cache.get("a") is not None


@pytest.mark.parametrize("owner", ["dead", "no process"])
def test_work_of_dead_processes_is_swept_and_that_of_living_ones_kept(cache: Cache, owner: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left = cache.root / "tmp" / {"dead": f"{gone.pid}-x", "no process": "x"}[owner]
    left.mkdir()
    (left / "half").write_text("x")
    with cache.workspace() as mine:
        cache.tidy()
        assert mine.is_dir()
    assert not left.exists()


def test_twenty_logs_are_kept(cache: Cache) -> None:
    for i in range(23):
        log = cache.root / "logs" / f"build-{i:02}.log"
        log.write_text("x")
        age(log, 100 - i)
    cache.tidy()
    assert sorted(p.name for p in (cache.root / "logs").iterdir())[0] == "build-03.log"


def test_a_stray_file_among_the_entries_does_no_harm(cache: Cache) -> None:
    fill(cache, "k")
    (cache.root / "entries" / ".DS_Store").write_text("x")
    cache.tidy()
    assert cache.get("k") is not None


def test_a_limit_that_is_no_number_is_an_error_of_ours(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE_MAX_BYTES", "8 GB")
    with pytest.raises(EdgellmError, match="EDGELLM_CACHE_MAX_BYTES"):
        cache.tidy()


@pytest.mark.parametrize(
    ("pid", "answer"),
    [(str(os.getpid()), True), ("1", True), (DEAD, False), ("x", False), ("", False)],
    ids=["this", "the first", "dead", "no number", "empty"],
)
def test_alive(pid: str, answer: bool) -> None:
    assert alive(pid) is answer


def test_a_key_changes_with_every_input_and_not_with_their_order() -> None:
    base = key_of("lower", ("numpy",), format="onnx", buckets=(16, 32))
    assert base == key_of("lower", ("numpy",), buckets=(16, 32), format="onnx")
    assert base.startswith("lower-")
    others = [
        key_of("gate", ("numpy",), format="onnx", buckets=(16, 32)),
        key_of("lower", ("tokenizers",), format="onnx", buckets=(16, 32)),
        key_of("lower", ("numpy",), format="tflite", buckets=(16, 32)),
        key_of("lower", ("numpy",), format="onnx", buckets=(16, 64)),
    ]
    assert len({base, *others}) == 5


def test_a_key_changes_with_a_tool_s_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of("lower", ("numpy",))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert key_of("lower", ("numpy",)) != before


def test_a_tool_that_is_not_installed_is_named_with_the_command() -> None:
    with pytest.raises(MissingDependencyError, match=r"needs no-such-tool\. .*pip install 'edgellm\[build\]'"):
        versions(("numpy", "no-such-tool"))


def test_the_default_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "mine"))
    assert Cache.default().root == tmp_path / "mine"
