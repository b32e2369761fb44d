"""The emulator: real aarch64 engines answer from raw text on two CPU models, and every way to fail has a message."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

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
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.arm

TEXT = "The lighthouse keeper climbs the stairs."
CPUS = ["cortex-a72", "cortex-a76"]
CROSS_COMPILER = "aarch64-linux-gnu-gcc"

needs_compiler = pytest.mark.skipif(
    shutil.which(CROSS_COMPILER) is None, reason="apt-get install gcc-aarch64-linux-gnu"
)

DOT_PRODUCT = """
#include <arm_neon.h>
#include <stdio.h>
int main(int argc, char **argv) {
    char line[4096];
    if (argc > 1) {
        puts("edgellm-runner 0.1.0 (executorch 1.5.1)");
        return 0;
    }
    while (fgets(line, sizeof line, stdin)) {
        int8x16_t one = vdupq_n_s8(line[0] != 0);
        printf("{\\"sum\\": %d}\\n", vaddvq_s32(vdotq_s32(vdupq_n_s32(0), one, one)));
        fflush(stdout);
    }
}
"""
"""A runner that is built for a Raspberry Pi 5."""


def compiled(folder: Path, source: str, *flags: str) -> str:
    """Return a static aarch64 program made from C."""
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


@needs_compiler
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


@needs_compiler
def test_an_instruction_that_the_cpu_lacks_is_named(emulation: Emulation, tmp_path: Path) -> None:
    program = compiled(tmp_path, DOT_PRODUCT, "-march=armv8.2-a+dotprod")
    with Emulator(cpu_model("cortex-a76"), emulation).start_program([program]) as worker:
        assert worker.request("infer") == {"sum": 16}
    with (
        Emulator(cpu_model("cortex-a72"), emulation).start_program([program]) as worker,
        pytest.raises(DeviceError) as caught,
    ):
        worker.request("infer")
    assert str(caught.value).startswith(
        "The worker on emulator:cortex-a72 died of SIGILL at 'infer', it met an instruction that cortex-a72 "
        "(Raspberry Pi 4) does not have"
    )


@needs_compiler
def test_so_it_is_in_the_runner_behind_the_emulated_python(
    emulation: Emulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = compiled(tmp_path, DOT_PRODUCT, "-march=armv8.2-a+dotprod")
    monkeypatch.setattr("edgellm.emulation.native.native_runner", lambda: Path(program))
    bundle = tiny_bundle(tmp_path / "bundle", others=("executorch",))
    device = open_device("emulator:cortex-a72")
    with device.start("executorch") as worker, pytest.raises(DeviceError) as caught:
        worker.request("open", bundle=device.push(bundle.path), artifact="executorch", threads=1)
    assert "died of SIGILL" in str(caught.value)
    assert "an instruction that this CPU (Cortex-A72) does not have" in str(caught.value)


def test_a_program_for_another_architecture_is_refused_by_qemu(emulation: Emulation) -> None:
    device = Emulator(cpu_model("cortex-a72"), emulation)
    with device.start_program([shutil.which("cat") or "cat"]) as worker, pytest.raises(DeviceError) as caught:
        worker.request("infer")
    assert "Invalid ELF image for this architecture" in str(caught.value)


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
