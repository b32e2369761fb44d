"""Jobs in processes of their own: whatever becomes of one, the build hears of it, and none outlives the build.

The processes are real. What they run instead of torch's work is planted by a sitecustomize.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import DeviceError, EdgellmError, InputError
from edgellm.stages import jobs
from edgellm.stages.jobs import Job, run_jobs, slots

PLANT = """
import sys, types
prepare = types.ModuleType("edgellm.stages.load")
def describe_factory(factory):
    import os, time, errno
    from edgellm.errors import InputError, EdgellmError
    from pathlib import Path
    return eval(factory)
def fail(error):
    raise error
prepare.describe_factory, prepare.fail = describe_factory, fail
describe_factory.__globals__["fail"] = fail
sys.modules["edgellm.stages.load"] = prepare
"""


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(PLANT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[3])]))


def job(tmp_path: Path, code: str, results: dict[str, Any] | None = None, name: str = "onnx") -> Job:
    folder = tmp_path / name
    folder.mkdir()
    fields: dict[str, object] = {"kind": "describe", "factory": code, "folder": str(folder)}
    return Job(name, fields, (results if results is not None else {}).update)


def run(tmp_path: Path, *todo: Job, side_by_side: int = 2) -> list[str]:
    started: list[str] = []
    run_jobs(todo, side_by_side=side_by_side, log=tmp_path / "log", started=started.append)
    return started


def test_results_arrive_and_what_jobs_print_is_the_log(tmp_path: Path) -> None:
    results: dict[str, Any] = {}
    todo = [job(tmp_path, "{'a': print('noise') or 1}", results, "a"), job(tmp_path, "{'b': 'ü'}", results, "b")]
    assert run(tmp_path, *todo) == ["a", "b"]
    assert results == {"a": 1, "b": "ü"}
    assert (tmp_path / "log").read_text() == "noise\n"
    assert list((tmp_path / "a").iterdir()) == []  # nothing of the job stays among an entry's files


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("fail(InputError('No weights.', hint='Add some.'))", InputError, r"^No weights\. Add some\.$"),
        ("fail(MemoryError())", InputError, "too large for this machine's memory"),
        ("fail(ZeroDivisionError('first.\\nsecond'))", EdgellmError, r"failed with ZeroDivisionError: first\. .*log"),
        ("fail(ModuleNotFoundError('x', name='torchao'))", EdgellmError, r"needs torchao\. .*edgellm\[build\]"),
        (
            "os.kill(os.getpid(), 9)",
            DeviceError,
            r"for onnx ended with SIGKILL\. Most likely memory ran out\. Its log: ",
        ),
        ("os.kill(os.getpid(), 4)", DeviceError, r"for onnx ended with SIGILL\. Its log"),
        ("os._exit(3)", DeviceError, r"for onnx ended with code 3\. Its log: .*log"),
    ],
)
def test_a_job_that_fails_is_an_error_of_its_kind(
    tmp_path: Path, code: str, kind: type[EdgellmError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(tmp_path, job(tmp_path, code))


def test_an_error_that_nobody_foresaw_has_its_traceback_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(EdgellmError) as caught:
        run(tmp_path, job(tmp_path, "1 / 0"))
    assert type(caught.value) is EdgellmError
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_full_disk_arrives_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        run(tmp_path, job(tmp_path, "fail(OSError(errno.ENOSPC, 'No space left'))"))
    assert caught.value.errno == errno.ENOSPC


def test_a_job_that_could_not_say_that_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    for code in ("os._exit(1)", "fail(RuntimeError('basic_ios::clear'))"):
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path, job(tmp_path, code, name=code[:4]))


def test_the_first_that_fails_ends_the_others(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(DeviceError, match="for b ended with code 3"):
        run(tmp_path, job(tmp_path, "time.sleep(60)", name="a"), job(tmp_path, "os._exit(3)", name="b"))
    assert time.monotonic() - start < 30


def test_no_more_run_side_by_side_than_asked(tmp_path: Path) -> None:
    live = f"Path({str(tmp_path / 'live')!r})"
    code = f"{live}.mkdir() or time.sleep(0.1) or {live}.rmdir() or {{}}"
    todo = [job(tmp_path, code, name=name) for name in "abc"]
    assert run(tmp_path, *todo, side_by_side=1) == ["a", "b", "c"]  # two at once would fail at mkdir


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, "2"), ("1", "1"), ("2", "2"), ("16", "2"), ("0", "2"), ("many", "2"), ("1,2", "1")]
)
def test_jobs_share_the_cores_and_take_no_more_threads_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, expected: str
) -> None:
    monkeypatch.setattr(jobs, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    results: dict[str, Any] = {}
    code = "{'threads': os.environ['OMP_NUM_THREADS']}"
    run(tmp_path, job(tmp_path, code, results), job(tmp_path, code, name="tflite"))
    assert results == {"threads": expected}


def test_a_job_ends_with_its_parent(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = f"Path({str(mark)!r}).write_text(str(os.getpid())) and time.sleep(60)"
    parent = f"""
from pathlib import Path
from edgellm.stages.jobs import Job, run_jobs
fields = {{"kind": "describe", "factory": {code!r}, "folder": {str(tmp_path)!r}}}
run_jobs([Job("a", fields, print)], side_by_side=1, log=Path({str(tmp_path / "log")!r}), started=print)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL) as process:
        _wait_for(lambda: mark.is_file() and mark.read_text() != "")
        process.send_signal(signal.SIGKILL)
    _wait_for(lambda: not Path(f"/proc/{mark.read_text()}/cmdline").is_file() or not _cmdline(mark.read_text()))


def _cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _wait_for(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("nothing happened for 10 seconds")


@pytest.mark.parametrize(
    ("cores", "free", "expected"),
    [(4, 100, 4), (4, 25, 2), (4, 5, 1), (1, 100, 1), (4, None, 4), (4, 0, 1)],
)
def test_slots_follow_cores_and_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, free: int | None, expected: int
) -> None:
    monkeypatch.setattr(jobs, "cores", lambda: cores)
    monkeypatch.setattr(jobs, "available_memory", lambda: free)
    assert slots(10) == expected
