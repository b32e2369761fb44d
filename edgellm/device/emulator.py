"""Emulated Arm CPUs: the same worker and the real aarch64 engines under qemu-user, on this machine.

They answer what qemu computes for the CPU model, with the kernels that the engines choose on it; how long they take says
nothing. ONNX and TFLite run in an emulated Python, as on a Raspberry Pi. So does ExecuTorch's worker, which hands its
passes to the native runner.

Not everything is as on the board. An instruction that the model lacks is caught, with one exception: qemu's cortex-a53
and cortex-a72 have the cryptographic extensions (AES, SHA), which a Raspberry Pi 3's and 4's chips lack, so that code
that uses them runs here and dies there (see `edgellm.emulation.cpus`). The kernel is this machine's, and so are its
memory, its caches and its page size; errors that need a weaker memory order than this machine's don't show.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from edgellm.core.scheme import PORTABLE
from edgellm.device import DeviceInfo
from edgellm.device._files import LocalFiles
from edgellm.emulation.counter import Counter, plugin
from edgellm.emulation.cpus import CPUS, Cpu, cpu_model
from edgellm.emulation.leftovers import work_folder
from edgellm.emulation.push import pushed_runtime
from edgellm.emulation.sysroot import Emulation, lacking, require
from edgellm.errors import UsageError
from edgellm.runtime import engines
from edgellm.runtime.client import TIMEOUT, WorkerClient, request_limit
from edgellm.runtime.machine import EMULATED

TIMEOUT_S = 300.0
"""Seconds for one request unless EDGELLM_DEVICE_TIMEOUT says otherwise. Emulation is 10 to 30 times slower than the host;
more than this is, for most models, a worker that hangs."""

NATIVE = "executorch"
"""The format whose Python package does not import on such a device: it runs in the native runner."""

_LAUNCH = 'ulimit -c 0; [ "$0" = none ] || ulimit -v "$0"; exec "$@"'
"""A crash leaves no dump of qemu behind; and the memory limit, in KiB."""


class Emulator(LocalFiles):
    """One emulated CPU model. Starts any number of workers, side by side as well."""

    emulated = True
    formats = PORTABLE

    def __init__(
        self, cpu: Cpu, emulation: Emulation, *, timeout: float | None = None, memory_mb: int | None = None
    ) -> None:
        """Emulate a CPU model.

        Args:
            cpu: the model.
            emulation: a finished setup.
            timeout: seconds after which a request without an answer has failed; EDGELLM_DEVICE_TIMEOUT, or
                `TIMEOUT_S`, if None.
            memory_mb: address space of a worker, qemu's own (some 200 MB) included; no limit if None.

        Raises:
            UsageError: EDGELLM_DEVICE_TIMEOUT is no number of seconds.

        """
        self.name = f"emulator:{cpu.name}"
        self.cpu = cpu.name
        self._cpu = cpu
        self._emulation = emulation
        self._timeout = request_limit(TIMEOUT_S) if timeout is None else timeout
        self._memory_mb = memory_mb

    def check(self, formats: Sequence[str], *, counting: bool = False) -> None:
        """See that artifacts of these formats can run; builds the native runner and the counter if they are needed.

        Raises:
            UsageError: a format has no engine.
            MissingDependencyError: what the native runner or the counter is built with is missing.
            DeviceError: building it failed.

        """
        for fmt in formats:
            engines.load_engine(fmt)
        if counting:
            plugin()
        if NATIVE in formats:
            from edgellm.emulation.native import native_runner

            native_runner()

    def start(self, fmt: str, *, counting: bool = False) -> WorkerClient:
        """Start an emulated worker.

        Raises:
            MissingDependencyError: a compiler is missing, for counting or for the native runner.
            DeviceError: the worker does not start, or the cache can't be written.

        """
        with contextlib.ExitStack() as stack:
            work = Path(stack.enter_context(work_folder()))
            counter = Counter(work / "instructions") if counting else None
            options = counter.options if counter else []
            environment = self._environment()
            if fmt == NATIVE:
                # qemu-user starts no aarch64 program from an emulated one, but it starts the host's: a script.
                environment["EDGELLM_RUNNER"] = str(self._runner_script(work, options))
                options = []
            program = [self._emulation.python(self._cpu), "-S", "-P", "-B", "-m", "edgellm.runtime"]
            limit = str(self._memory_mb * 1024) if self._memory_mb else "none"
            return WorkerClient(
                ["/bin/sh", "-c", _LAUNCH, limit, *self._emulation.qemu(self._cpu, options), *program],
                what=self.name,
                env=environment,
                timeout=self._timeout,
                group=True,
                cpu=f"{self._cpu.name} ({self._cpu.board})",
                counter=counter.read if counter else None,
                cleanup=stack.pop_all().close,
            )

    def _environment(self) -> dict[str, str]:
        """Return what an emulated worker's environment holds: little, as little of the host's is true there."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR", TIMEOUT) if name in os.environ}
        # Without random hash seeds a count of instructions repeats.
        path = f"{pushed_runtime()}:{self._emulation.site}"
        return {**kept, EMULATED: "1", "PYTHONPATH": path, "PYTHONHASHSEED": "0"}

    def _runner_script(self, work: Path, options: list[str]) -> Path:
        """Write a program of the host's that is the native runner on the emulated CPU."""
        from edgellm.emulation.native import native_runner

        command = [*self._emulation.qemu(self._cpu, options), str(native_runner())]
        script = work / "edgellm-runner"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        return script


def open(unit: str) -> Emulator:
    """Return the emulated CPU model `unit`.

    Raises:
        UsageError: there is no such model.
        MissingDependencyError: the emulator is not set up.
        DeviceError: it can't run on this machine.

    """
    if not unit:
        raise UsageError(
            "The emulator needs a CPU model behind a colon.",
            hint=f"One of: {', '.join(f'emulator:{name}' for name in sorted(CPUS))}.",
        )
    return Emulator(cpu_model(unit), require())


def units() -> list[DeviceInfo]:
    """Return every CPU model, on machines where none can be emulated as well."""
    hint = lacking()
    return [
        DeviceInfo(f"emulator:{cpu.name}", f"emulated CPU of a {cpu.board}", emulated=True, ready=not hint, hint=hint)
        for cpu in CPUS.values()
    ]
