"""The built wheel in clean environments: what a device installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm.runtime import Bundle, Session

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("edgellm-*.whl")
    return path


@pytest.fixture(scope="session")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a clean environment with the wheel and more, and gives its bin folder."""

    def make(*requirements: str) -> Path:
        folder = tmp_path_factory.mktemp("device")
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *requirements], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / "bin"

    return make


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run outside the checkout, with nothing of it on the path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_a_device_with_one_engine(
    wheel: Path, device: Callable[..., Path], demo_bundle: Bundle, tmp_path: Path
) -> None:
    bin_ = device(f"{wheel}[onnx]")
    done = run([str(bin_ / "edgellm"), "targets"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "raspberry-pi-5" in done.stdout
    done = run([str(bin_ / "edgellm"), "support"], tmp_path)
    assert "MobileBERT" in done.stdout, done.stderr

    done = run([str(bin_ / "edgellm"), "run", str(demo_bundle.path), "From a clean machine", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["format"] == "onnx", "the first of the target's order whose engine is installed"
    here = Session.open(demo_bundle, format="onnx")("From a clean machine").value
    assert np.allclose(answer["value"], here, atol=1e-6)

    done = run([str(bin_ / "edgellm"), "run", str(demo_bundle.path), "x", "--format", "tflite"], tmp_path)
    assert done.returncode == 4
    assert "pip install 'edgellm[tflite]'" in done.stderr

    done = run([str(bin_ / "edgellm"), "build", "--target", "linux-arm64"], tmp_path)
    assert done.returncode == 4
    assert "pip install 'edgellm[build]'" in done.stderr
    assert os.listdir(tmp_path) == []

    done = run([str(bin_ / "edgellm"), "verify", str(demo_bundle.path), "--format", "onnx", "--cases", "4"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = run([str(bin_ / "edgellm"), "bench", str(demo_bundle.path), "--format", "onnx", "--runs", "5"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = run([str(bin_ / "edgellm"), "doctor"], tmp_path)
    assert "onnx: runs with onnxruntime" in done.stdout, done.stderr

    installed = run([str(bin_ / "python"), "-m", "pip", "list", "--format=freeze"], tmp_path).stdout.lower()
    assert not {"torch", "transformers", "onnx", "rich"} & {line.partition("==")[0] for line in installed.split()}


def test_an_old_tflite_runtime_refuses_what_it_would_compute_wrongly(
    wheel: Path, device: Callable[..., Path], demo_bundle: Bundle, model: Callable[[str], Path], tmp_path: Path
) -> None:
    bin_ = device(str(wheel), "tflite-runtime==2.14.0", "numpy<2")
    done = run([str(bin_ / "edgellm"), "run", str(demo_bundle.path), "hello"], tmp_path)
    assert done.returncode == 6, done.stdout
    assert "tflite-runtime 2.14.0 can't load" in done.stderr
    assert "FULLY_CONNECTED" in done.stderr

    out = tmp_path / "fp32"
    done = edgellm(
        "build", str(model("encoder")), "--target", "raspberry-pi-4", "--format", "tflite", "--scheme", "fp32",
        "--out", str(out), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run([str(bin_ / "edgellm"), "run", str(out), "hello there", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    here = Session.open(out)("hello there").value
    assert np.dot(json.loads(done.stdout)["value"], here) / np.dot(here, here) == pytest.approx(1, abs=1e-4)  # type: ignore[arg-type]
