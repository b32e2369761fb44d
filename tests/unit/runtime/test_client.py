"""The parent's end: whatever becomes of a worker, the parent gets an error that says what happened, and never hangs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from edgellm.device.host import Host
from edgellm.errors import BundleError, DeviceError, EdgellmError, UsageError
from edgellm.runtime import Bundle
from edgellm.runtime import client as clients
from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import EMULATED, cores, machine
from edgellm.stages.cache import alive

ECHO = "import sys\nfor line in sys.stdin: print('{\"ok\": 1}', flush=True)"


def client(code: str) -> WorkerClient:
    return WorkerClient([sys.executable, "-c", code], what="the bench")


@pytest.mark.parametrize(
    ("signal", "cause"),
    [
        ("SIGKILL", "it was killed, most likely for want of memory"),
        (
            "SIGILL",
            f"it met an instruction that this CPU ({machine().cpu}) does not have; the artifact, or what runs it, is "
            "for another CPU",
        ),
        ("SIGSEGV", "it read or wrote outside its memory"),
        ("SIGABRT", "its engine gave up on an internal check"),
        ("SIGBUS", "its memory or a mapped file went away"),
    ],
)
def test_a_worker_killed_by_a_signal_names_it_and_the_likely_cause(signal: str, cause: str) -> None:
    no_core = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    code = f"{no_core}\nimport os, signal\ninput()\nos.kill(os.getpid(), signal.{signal})"
    with client(code) as worker, pytest.raises(DeviceError) as caught:
        worker.request("run", input="x")
    assert str(caught.value).startswith(f"The worker on the bench died of {signal} at 'run', {cause}.")


def test_a_real_time_signal_has_no_name_and_is_reported_all_the_same() -> None:
    with client("import os\ninput()\nos.kill(os.getpid(), 35)") as worker, pytest.raises(DeviceError, match="35"):
        worker.request("run")


def test_a_worker_that_exits_gives_its_code_and_its_last_words() -> None:
    code = "import sys\ninput()\nprint('first\\nno such kernel: ü', file=sys.stderr)\nsys.exit(3)"
    with client(code) as worker, pytest.raises(DeviceError) as caught:
        worker.request("open")
    assert str(caught.value) == "The worker on the bench ended with code 3 at 'open'. Its last words: no such kernel: ü"


def test_a_worker_that_never_started_is_an_error_at_the_first_request() -> None:
    with client("import sys; sys.exit('no module')") as worker:
        worker._process.wait()
        with pytest.raises(DeviceError, match=r"ended with code 1 at 'open'\. Its last words: no module"):
            worker.request("open", bundle="x" * 1_000_000)  # more than a pipe holds


def test_half_a_reply_is_a_death() -> None:
    code = "import sys\ninput()\nsys.stdout.write('{\"ok\": ')\nsys.stdout.flush()\nimport os; os._exit(9)"
    with client(code) as worker, pytest.raises(DeviceError, match="ended with code 9"):
        worker.request("run")


@pytest.mark.parametrize("reply", ["hello", "5", "", '"x"', '{"error": 1}'])
def test_a_reply_that_is_none_is_a_device_error(reply: str) -> None:
    with client(f"input()\nprint({reply!r}, flush=True)\ninput()") as worker, pytest.raises(EdgellmError):
        worker.request("run")


def test_a_command_that_does_not_exist_is_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no-such-worker"):
        WorkerClient([str(tmp_path / "no-such-worker")], what="the bench")


def test_replies_come_in_the_order_of_requests() -> None:
    code = "import sys, json\nfor line in sys.stdin: print(json.dumps({'n': json.loads(line)['n']}), flush=True)"
    with client(code) as worker:
        for n in range(5):
            worker.send("x", n=n)
        assert [worker.receive()["n"] for _ in range(5)] == list(range(5))


def test_the_end_of_the_block_ends_the_worker() -> None:
    with client(ECHO) as worker:
        assert worker.request("x") == {"ok": 1}
        process = worker._process
    assert process.returncode == 0


def test_an_exception_in_the_block_kills_the_worker_at_once() -> None:
    worker = client("import time\ntime.sleep(60)")

    def use() -> None:
        with worker:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert worker._process.returncode == -9


def test_a_worker_that_writes_a_lot_to_standard_error_does_not_block() -> None:
    code = "import sys\nsys.stderr.write('x' * 1_000_000)\n" + ECHO
    with client(code) as worker:
        assert worker.request("x") == {"ok": 1}


def test_errors_of_a_real_worker_arrive_as_their_class(embedder: Bundle, tmp_path: Path) -> None:
    host = Host()
    with host.start("onnx") as worker:
        with pytest.raises(BundleError, match="is no bundle"):
            worker.request("open", bundle=str(tmp_path), artifact="onnx", threads=1)
        with pytest.raises(UsageError, match="No artifact is open"):
            worker.request("run", input="x")
        worker.request("open", bundle=host.push(embedder.path), artifact="onnx", threads=1)
        assert len(worker.request("run", input="x")["value"]) == 8


def test_the_host_s_worker_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "tokenizers", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parents[3]))
    with Host().start("onnx") as worker, pytest.raises(UsageError, match="No artifact is open"):
        worker.request("run", input="x")


@pytest.mark.parametrize(
    "words",
    [
        "MemoryError",
        "terminate called: std::bad_alloc",
        "mmap: Cannot allocate memory",
        "OpenBLAS: Memory allocation failed",
    ],
)
@pytest.mark.parametrize("end", ["sys.exit(1)", "os.abort()"])
def test_a_worker_without_memory_says_so(words: str, end: str) -> None:
    no_core = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    code = f"{no_core}\nimport os, sys\ninput()\nprint({words!r}, file=sys.stderr, flush=True)\n{end}"
    with client(code) as worker, pytest.raises(DeviceError, match="it ran out of memory"):
        worker.request("open")


def test_a_request_without_an_answer_fails_after_the_limit_and_takes_the_worker_s_own_processes_along(
    tmp_path: Path,
) -> None:
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "child.wait()"
    )
    started = WorkerClient([sys.executable, "-c", code], what="the bench", timeout=2, group=True)
    with started as worker, pytest.raises(DeviceError, match="gave no answer to 'run' in 2 s"):
        worker.request("run")
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while alive(str(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(str(pid))


def test_instructions_are_counted_only_where_a_counter_is() -> None:
    with client(ECHO) as worker, pytest.raises(UsageError, match="does not count instructions"):
        worker.instructions()
    with WorkerClient([sys.executable, "-c", ECHO], what="x", counter=lambda: 42) as worker:
        assert worker.instructions() == 42


def test_cleanup_runs_once_when_the_worker_has_ended_or_does_not_start(tmp_path: Path) -> None:
    cleaned: list[str] = []
    with WorkerClient([sys.executable, "-c", ECHO], what="x", cleanup=lambda: cleaned.append("ended")) as worker:
        assert not cleaned
    worker.close()
    with pytest.raises(DeviceError):
        WorkerClient([str(tmp_path / "none")], what="x", cleanup=lambda: cleaned.append("no start"))
    assert cleaned == ["ended", "no start"]


def test_an_interrupted_request_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys\nfor line in sys.stdin: print('{\"answer\": ' + line.strip() + '}', flush=True)"
    with client(code) as worker:
        assert worker.request("first")["answer"] == {"op": "first"}
        with monkeypatch.context() as patch:
            patch.setattr(worker, "receive", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                worker.request("second")
        with pytest.raises(DeviceError):
            worker.request("third")


def test_a_worker_that_closes_its_output_and_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "END_S", 1.0)
    code = "import os, sys, time\ninput()\nprint('bye', file=sys.stderr)\nos.close(1)\ntime.sleep(600)"
    with client(code) as worker, pytest.raises(DeviceError) as caught:
        worker.request("run")
    assert str(caught.value) == (
        "The worker on the bench closed its output and did not end at 'run'; it was killed. Its last words: bye"
    )
    assert worker._process.returncode == -9


@pytest.mark.parametrize("closes", ["", "os.close(0)"])
def test_a_worker_that_does_not_read_is_no_trouble_either(monkeypatch: pytest.MonkeyPatch, closes: str) -> None:
    monkeypatch.setattr(clients, "END_S", 1.0)
    code = f"import os, time\n{closes}\ntime.sleep(600)"
    started = WorkerClient([sys.executable, "-c", code], what="the bench", timeout=1)
    with started as worker, pytest.raises(DeviceError, match="gave no answer to 'run' in 1 s"):
        worker.request("run", input="x" * 1_000_000)  # more than a pipe holds


def test_a_dead_worker_takes_no_more_requests() -> None:
    with client("import sys\ninput()\nsys.exit(3)") as worker:
        for _ in range(3):
            with pytest.raises(DeviceError, match="ended with code 3"):
                worker.request("run")


def test_the_limit_comes_from_the_environment_and_its_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with client(ECHO) as worker:
        assert worker.timeout == clients.TIMEOUT_S
    monkeypatch.setenv("EDGELLM_DEVICE_TIMEOUT", "0.5")
    with (
        client("import time\ntime.sleep(600)") as worker,
        pytest.raises(DeviceError, match=r"'run' in 0\.5 s\. .*EDGELLM_DEVICE_TIMEOUT"),
    ):
        worker.request("run")


@pytest.mark.parametrize("said", ["0", "-1", "soon", "nan", "inf", "1e30", " "])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("EDGELLM_DEVICE_TIMEOUT", said)
    with pytest.raises(UsageError, match=r"EDGELLM_DEVICE_TIMEOUT is '.*'; it is a number of seconds above 0"):
        clients.request_limit()


def test_an_emulated_worker_has_the_cores_of_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "".join(f"processor\t: {core}\nBogoMIPS\t: 108.00\n\n" for core in range(7))
    monkeypatch.setattr("edgellm.runtime.machine._read", {"/proc/cpuinfo": shown}.get)
    monkeypatch.delenv(EMULATED, raising=False)
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.setenv(EMULATED, "1")
    assert cores() == 7
