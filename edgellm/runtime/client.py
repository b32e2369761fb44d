"""The parent's end of a worker: sends requests, reads replies, and says what happened when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, BinaryIO, cast

from edgellm.errors import DeviceError, EdgellmError, UsageError, from_wire
from edgellm.runtime.machine import machine, out_of_memory

_SIGNAL_CAUSES = {
    "SIGILL": "it met an instruction that {cpu} does not have; the artifact, or what runs it, is for another CPU",
    "SIGKILL": "it was killed, most likely for want of memory",
    "SIGSEGV": "it read or wrote outside its memory",
    "SIGABRT": "its engine gave up on an internal check",
    "SIGBUS": "its memory or a mapped file went away",
}

_OUT_OF_MEMORY = "it ran out of memory"

TIMEOUT = "EDGELLM_DEVICE_TIMEOUT"
"""Environment variable: seconds that one request to any worker may take."""
TIMEOUT_S = 600.0
"""Without it."""
END_S = 10.0
"""Seconds that a worker may take to end after it closed its output."""


def request_limit(default: float = TIMEOUT_S) -> float:
    """Return the seconds that a request may take: what EDGELLM_DEVICE_TIMEOUT says, or `default`.

    Raises:
        UsageError: it is no number of seconds.

    """
    said = os.environ.get(TIMEOUT, "")
    if not said:
        return default
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= threading.TIMEOUT_MAX:  # which refuses nan as well
        raise UsageError(f"{TIMEOUT} is {said!r}; it is a number of seconds above 0.")
    return seconds


class WorkerClient:
    """A running worker process that speaks the lines of `edgellm.runtime.worker`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        what: str,
        env: dict[str, str] | None = None,
        timeout: float | None = None,
        group: bool = False,
        cpu: str | None = None,
        counter: Callable[[], int] | None = None,
        cleanup: Callable[[], None] | None = None,
    ) -> None:
        """Start `command`.

        Args:
            command: the worker's command line.
            what: name of the device, for messages.
            env: its environment; the parent's if left out.
            timeout: seconds after which a request without an answer has failed; `request_limit()` if left out.
            group: whether it leads a process group of its own, so that what it starts is killed with it.
            cpu: what the device computes with, for messages; this machine's CPU if left out.
            counter: reads how many instructions the worker has executed, where the device counts them.
            cleanup: called once the worker has ended, or does not start.

        """
        self._what = what
        self._group = group
        self._cpu = cpu
        self._counter = counter
        self._cleanup = cleanup
        self.timeout = request_limit() if timeout is None else timeout
        self._doing = "starting"
        # An unnamed file, not a pipe: nobody has to drain it, and it vanishes with the process.
        self._stderr: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=env,
                process_group=0 if group else None,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            self._stderr.close()
            self._clean_up()
            raise DeviceError(f"No worker starts on {what}: {command[0]}: {error.strerror}.") from None

        # Threads read and write, because a pipe has no read or write with a deadline.
        self._lines: queue.Queue[str] = queue.Queue()
        self._requests: queue.Queue[str | None] = queue.Queue()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def request(self, op: str, **fields: object) -> dict[str, Any]:
        """Send one request and return its reply.

        Raises:
            EdgellmError: what the worker answered, as the class it was there.
            DeviceError: the worker died (the message names the signal), or gave no answer in time.

        """
        self._doing = op
        try:
            self.send(op, **fields)
            return self.receive()
        except EdgellmError:
            raise
        except BaseException:
            self._kill()  # its answer would be taken for the next request's
            raise

    def send(self, op: str, **fields: object) -> None:
        """Send a request without waiting for its reply, to let workers open side by side.

        Returns at once, whether or not the worker reads: `receive` has the limit for both.
        """
        if self._process.poll() is not None:
            raise self._died()
        self._requests.put(json.dumps({"op": op, **fields}) + "\n")

    def receive(self) -> dict[str, Any]:
        """Return the reply to the oldest unanswered request; raises like `request`."""
        try:
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            self._kill()
            raise DeviceError(
                f"The worker on {self._what} gave no answer to '{self._doing}' in {self.timeout:g} s.",
                hint=f"If it is only slow, give it more seconds in {TIMEOUT}.",
            ) from None
        if not line.endswith("\n"):
            raise self._died()
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict) or not isinstance(reply.get("error", {}), dict):
            raise DeviceError(f"The worker on {self._what} answered '{self._doing}' with no reply: {line[:100]!r}.")
        if "error" in reply:
            raise from_wire(reply["error"])
        return cast("dict[str, Any]", reply)

    def instructions(self) -> int:
        """Return how many instructions the worker has executed so far; exact while no request is under way.

        Raises:
            UsageError: the worker was not started to count.

        """
        if self._counter is None:
            raise UsageError(f"The worker on {self._what} does not count instructions.")
        return self._counter()

    def kill(self) -> None:
        """End the worker at once; a request that waits for it fails. Any thread may call it."""
        self._kill()

    def close(self) -> None:
        """End the worker."""
        self._requests.put(None)
        try:
            self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._kill()
        for thread in self._threads:
            thread.join(timeout=END_S)
        if self._process.stdout:
            self._process.stdout.close()
        self._stderr.close()
        self._clean_up()

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._kill()
        self.close()

    def _kill(self) -> None:
        if self._group and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _clean_up(self) -> None:
        if self._cleanup is not None:
            self._cleanup()
            self._cleanup = None

    def _read(self) -> None:
        """Hand over every line, and at the end an empty one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _write(self) -> None:
        """Write requests until there are no more, or nobody reads them; the reader notices a worker that ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            while (line := self._requests.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _died(self) -> DeviceError:
        code: int | None
        try:
            code = self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            code = None
            self._kill()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        last = f" Its last words: {lines[-1][:300]}" if lines else ""
        if code is None:
            return DeviceError(
                f"The worker on {self._what} closed its output and did not end at '{self._doing}'; it was killed.{last}"
            )
        starved = out_of_memory(" ".join(lines[-20:]))
        if code < 0:
            name = signal_name(-code)
            known = _SIGNAL_CAUSES.get(name, "").format(cpu=self._cpu or f"this CPU ({machine().cpu})")
            cause = f", {_OUT_OF_MEMORY if starved else known}" if starved or known else ""
            return DeviceError(f"The worker on {self._what} died of {name} at '{self._doing}'{cause}.{last}")
        cause = f", {_OUT_OF_MEMORY}" if starved else ""
        return DeviceError(f"The worker on {self._what} ended with code {code} at '{self._doing}'{cause}.{last}")


def signal_name(number: int) -> str:
    """Return "SIGILL" for 4 and so on; real-time signals are "signal 40"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
