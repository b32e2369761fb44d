"""Runs jobs (see `edgellm.stages.__main__`) side by side, as many as cores and memory allow."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgellm.errors import DeviceError, EdgellmError, from_wire
from edgellm.runtime.client import signal_name
from edgellm.runtime.machine import cores

_FULL = 1_000_000
"""Free bytes below which a job that failed for no known reason failed for want of room."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        name: for progress: "reference", "onnx", ...
        fields: what the job process reads; `kind` and `folder` are among them.
        finish: called with the result in the order in which jobs end, in the parent's thread.

    """

    name: str
    fields: dict[str, object]
    finish: Callable[[dict[str, Any]], None]


def slots(bytes_per_job: int) -> int:
    """Return how many jobs may run side by side: one per core, as far as four fifths of free memory last."""
    free = available_memory()
    fit = cores() if free is None else int(free * 0.8) // bytes_per_job
    return max(1, min(cores(), fit))


def available_memory() -> int | None:
    """Return the bytes of memory that could be used without swapping, or None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def run_jobs(jobs: Sequence[Job], *, side_by_side: int, log: Path, started: Callable[[str], None]) -> None:
    """Run all jobs; the first that fails ends the others.

    Args:
        jobs: longest first.
        side_by_side: processes at a time.
        log: file that takes everything the jobs print.
        started: called with a job's name when its process starts.

    Raises:
        EdgellmError: what a job answered.
        DeviceError: a job's process died.

    """
    waiting = list(jobs)
    running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
    ended: queue.Queue[str] = queue.Queue()
    threads = _threads(min(side_by_side, len(jobs) or 1))
    try:
        with log.open("ab") as output:
            while waiting or running:
                while waiting and len(running) < side_by_side:
                    job = waiting.pop(0)
                    running[job.name] = (job, _start(job, output.fileno(), threads, ended))
                    started(job.name)
                job, process = running.pop(ended.get())
                _close(process)
                job.finish(_result(job, process.returncode, log))
    finally:
        for _, process in running.values():
            process.kill()
        for _, process in running.values():
            process.wait()
            _close(process)


def _threads(processes: int) -> int:
    """Return the threads of each of so many processes: their share of the cores, and no more than OMP_NUM_THREADS.

    Threads wait for each other at every product of matrices: where other work has a core, fewer may be faster.
    """
    share = max(1, cores() // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": 2 is of nested loops
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close our end of a dead job's standard input; what it did not read is lost."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _start(job: Job, output: int, threads: int, ended: queue.Queue[str]) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "edgellm.stages"], stdin=subprocess.PIPE, stdout=output, stderr=output, env=env
    )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({"threads": threads, **job.fields}).encode() + b"\n")
        process.stdin.flush()  # and left open: its end tells the job that nobody waits any more
    except BrokenPipeError:
        pass  # it died; _result says of what

    def wait() -> None:
        process.wait()
        ended.put(job.name)

    threading.Thread(target=wait, daemon=True).start()
    return process


def _check_room(folder: Path) -> None:
    """Raise the error of a full disk if it is full: a job can't write of what it died then, and converters hide it."""
    if shutil.disk_usage(folder).free < _FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _result(job: Job, code: int, log: Path) -> dict[str, Any]:
    path = Path(str(job.fields["folder"])) / "result.json"
    if not path.is_file():
        _check_room(path.parent)
        name = signal_name(-code) if code < 0 else f"code {code}"
        cause = " Most likely memory ran out." if name == "SIGKILL" else ""
        raise DeviceError(f"The process for {job.name} ended with {name}.{cause}", hint=f"Its log: {log}")
    result = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    if "os_error" in result:
        number, message = result["os_error"]["errno"], result["os_error"]["message"]
        raise OSError(number or errno.EIO, message)
    if "error" in result:
        error = from_wire(result["error"])
        if type(error) is EdgellmError:
            _check_room(path.parent)
        if type(error) is EdgellmError and not error.hint:
            error.hint = f"The log has the details: {log}"
        raise error
    return cast("dict[str, Any]", result["ok"])
