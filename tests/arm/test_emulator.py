"""The emulator: real aarch64 engines answer from raw text on two CPU models, and every way to fail has a message."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.device import open_device
from edgellm.device.emulator import Emulator
from edgellm.device.host import Host
from edgellm.emulation.counter import Counter
from edgellm.emulation.cpus import cpu_model
from edgellm.emulation.sysroot import Emulation
from edgellm.errors import BundleError, DeviceError, UsageError
from edgellm.runtime import Bundle
from edgellm.runtime.client import WorkerClient
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.arm

TEXT = "The lighthouse keeper climbs the stairs."
CPUS = ["cortex-a72", "cortex-a76"]
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
"""`make test-arm` installs it."""

RUNNER = """
#include <arm_neon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char line[4096];
    if (argc == 2) {
        puts("edgellm-runner 0.1.0 (executorch 1.5.1)");
        return 0;
    }
    while (fgets(line, sizeof line, stdin)) {
        FAULT
        fflush(stdout);
    }
}
"""
"""A native runner, but for what it does with a request."""

DOT_PRODUCT = """
    int8x16_t one = vdupq_n_s8(line[0] != 0);
    printf("{\\"protocol\\": 1, \\"load_ms\\": %d}\\n", vaddvq_s32(vdotq_s32(vdupq_n_s32(0), one, one)));
"""
"""What only a Raspberry Pi 5 executes."""

GREED = """
    for (char *more; (more = malloc(1 << 24));) memset(more, 1, 1 << 24);
    fputs("terminate called after throwing an instance of 'std::bad_alloc'\\n", stderr);
    abort();
"""


def compiled(folder: Path, source: str, *flags: str) -> str:
    """Return a static aarch64 program made from C."""
    folder.mkdir(exist_ok=True)
    (folder / "program.c").write_text(source)
    program = folder / "program"
    command = [CROSS_COMPILER, "-O1", "-static", *flags, "-o", str(program), str(folder / "program.c")]
    subprocess.run(command, check=True)
    return str(program)


@pytest.mark.parametrize("fmt", ["onnx", "tflite"])
@pytest.mark.parametrize("cpu", CPUS)
def test_an_artifact_answers_raw_text_as_on_the_host(emulation: Emulation, small: Bundle, cpu: str, fmt: str) -> None:
    values = {}
    for device in (Host(), open_device(f"emulator:{cpu}")):
        with device.start(fmt) as worker:
            opened = worker.request("open", bundle=device.push(small.path), artifact=fmt, threads=1)
            reply = worker.request("run", input=TEXT)
        values[device.name] = np.array(reply["value"])
    assert opened["machine"]["emulated"] is True
    assert opened["machine"]["arch"] == "aarch64"
    assert opened["machine"]["cpu"].lower() == cpu
    assert ("asimddp" in opened["machine"]["features"]) == (cpu == "cortex-a76")
    assert opened["machine"]["load"] is None
    host, emulated = values.values()
    cosine = host @ emulated / np.linalg.norm(host) / np.linalg.norm(emulated)
    assert cosine > 0.999


def test_instructions_of_a_run_repeat(emulation: Emulation, small: Bundle) -> None:
    device = open_device("emulator:cortex-a76")
    counts = []
    for _ in range(5):
        with device.start("onnx", counting=True) as worker:
            worker.request("open", bundle=device.push(small.path), artifact="onnx", threads=1)
            marks = []
            for runs in (1, 2, 12):
                worker.request("time", input=TEXT, runs=runs)
                marks.append(worker.instructions())
        counts.append((marks[2] - marks[1]) - (marks[1] - marks[0]))
    assert min(counts) > 0
    assert (max(counts) - min(counts)) / min(counts) < 0.005, counts


def test_a_worker_that_does_not_count_says_so(emulation: Emulation) -> None:
    with open_device("emulator:cortex-a72").start("onnx") as worker, pytest.raises(UsageError, match="does not count"):
        worker.instructions()


def test_the_counter_is_exact(emulation: Emulation, tmp_path: Path) -> None:
    source = """
        int main(int argc, char **argv) {
            long n = argc > 1 ? 2000000 : 1000000;
            __asm__ volatile("1: add x9, x9, #1\\n sub %0, %0, #1\\n nop\\n cbnz %0, 1b" : "+r"(n) : : "x9");
            return 0;
        }"""
    program = compiled(tmp_path, source)
    counts = []
    for arguments in ([], ["twice"]):
        counter = Counter(tmp_path / "count")
        command = [*emulation.qemu(cpu_model("cortex-a72"), counter.options), program, *arguments]
        subprocess.run(command, check=True)
        counts.append(counter.read())
    # One more argument costs the C library's start a few instructions.
    assert counts[1] - counts[0] == pytest.approx(4_000_000, abs=2_000)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return what puts a runner with a fault in the place of the native runner."""

    def plant(fault: str) -> Path:
        program = Path(compiled(tmp_path / "fault", RUNNER.replace("FAULT", fault), "-march=armv8.2-a+dotprod"))
        monkeypatch.setattr("edgellm.emulation.native.native_runner", lambda: program)
        return program

    return plant


def open_executorch(worker: WorkerClient, folder: Path) -> dict[str, Any]:
    """Open an artifact as verify and bench do: the emulated Python starts the runner's script."""
    bundle = tiny_bundle(folder / "bundle", others=("executorch",))
    return worker.request("open", bundle=str(bundle.path), artifact="executorch", threads=1)


def test_an_instruction_that_the_cpu_lacks_is_named(
    emulation: Emulation, tmp_path: Path, planted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = planted(DOT_PRODUCT)
    monkeypatch.setattr(Emulation, "python", lambda self, cpu: str(program))
    with open_device("emulator:cortex-a76").start("onnx") as worker:
        assert worker.request("infer") == {"protocol": 1, "load_ms": 16}
    with open_device("emulator:cortex-a72").start("onnx") as worker, pytest.raises(DeviceError) as caught:
        worker.request("infer")
    assert str(caught.value).startswith(
        "The worker on emulator:cortex-a72 died of SIGILL at 'infer', it met an instruction that cortex-a72 "
        "(Raspberry Pi 4) does not have"
    )


def test_so_it_is_in_the_runner_behind_the_emulated_python(
    emulation: Emulation, tmp_path: Path, planted: Callable[[str], Path]
) -> None:
    planted(DOT_PRODUCT)
    with open_device("emulator:cortex-a76").start("executorch") as worker:
        assert open_executorch(worker, tmp_path)["engine"] == "edgellm-runner 0.1.0 (executorch 1.5.1)"
    shutil.rmtree(tmp_path / "bundle")
    with open_device("emulator:cortex-a72").start("executorch") as worker, pytest.raises(DeviceError) as caught:
        open_executorch(worker, tmp_path)
    assert "died of SIGILL" in str(caught.value)
    assert "an instruction that this CPU (Cortex-A72) does not have" in str(caught.value)


def test_a_runner_for_another_architecture_is_refused_by_qemu(
    emulation: Emulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(Path("/bin/cat").read_bytes())
    content[18:20] = (62).to_bytes(2, "little")  # x86-64, on other hosts as well
    program = tmp_path / "edgellm-runner"
    program.write_bytes(content)
    program.chmod(0o755)
    monkeypatch.setattr("edgellm.emulation.native.native_runner", lambda: program)
    with open_device("emulator:cortex-a72").start("executorch") as worker, pytest.raises(DeviceError) as caught:
        open_executorch(worker, tmp_path)
    assert "is no edgellm-runner that runs here" in str(caught.value)
    assert "Invalid ELF image for this architecture" in str(caught.value)


def test_a_runner_that_hangs_is_ended_with_its_worker(
    emulation: Emulation, tmp_path: Path, planted: Callable[[str], Path]
) -> None:
    begun = tmp_path / "begun"
    program = planted(f'fclose(fopen("{begun}", "w")); sleep(600);')
    device = Emulator(cpu_model("cortex-a72"), emulation, timeout=20)
    with (
        device.start("executorch") as worker,
        pytest.raises(DeviceError, match="emulator:cortex-a72 gave no answer to 'open' in 20 s"),
    ):
        open_executorch(worker, tmp_path)
    assert begun.exists()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if os.fsencode(program) in path.read_bytes()]


def test_a_runner_without_memory_says_so(emulation: Emulation, tmp_path: Path, planted: Callable[[str], Path]) -> None:
    planted(GREED)
    device = Emulator(cpu_model("cortex-a72"), emulation, memory_mb=1000)
    with (
        device.start("executorch") as worker,
        pytest.raises(DeviceError, match=r"edgellm-runner died of SIGABRT .* ran out of memory"),
    ):
        open_executorch(worker, tmp_path)


def test_a_worker_that_hangs_is_ended_after_the_limit(emulation: Emulation, small: Bundle) -> None:
    device = Emulator(cpu_model("cortex-a72"), emulation, timeout=60)
    with device.start("onnx") as worker:
        worker.request("open", bundle=device.push(small.path), artifact="onnx", threads=1)
        worker.timeout = 2
        with pytest.raises(DeviceError, match="emulator:cortex-a72 gave no answer to 'time' in 2 s"):
            worker.request("time", input=TEXT, runs=10**9)


@pytest.mark.parametrize("memory_mb", [200, 300, 400])
def test_a_worker_without_memory_says_so(emulation: Emulation, small: Bundle, memory_mb: int) -> None:
    device = Emulator(cpu_model("cortex-a72"), emulation, memory_mb=memory_mb)
    with device.start("onnx") as worker, pytest.raises(DeviceError, match="ran out of memory"):
        worker.request("open", bundle=device.push(small.path), artifact="onnx", threads=1)


def test_errors_arrive_as_their_class(emulation: Emulation, tmp_path: Path) -> None:
    with open_device("emulator:cortex-a76").start("onnx") as worker, pytest.raises(BundleError, match="is no bundle"):
        worker.request("open", bundle=str(tmp_path), artifact="onnx", threads=1)


def test_nothing_of_the_host_s_python_is_visible(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    environment = Emulator(cpu_model("cortex-a72"), emulation)._environment()
    assert "LD_LIBRARY_PATH" not in environment
    folders = environment["PYTHONPATH"].split(":")
    assert len(folders) == 2
    assert not [name for folder in folders for name in ("torch", "transformers") if (Path(folder) / name).exists()]
