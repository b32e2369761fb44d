"""Verifying elsewhere: the same file on another device may compute something else, and that has to show."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from edgellm.core import strict
from edgellm.device.host import Host
from edgellm.errors import DeviceError, GateError
from edgellm.runtime import Bundle
from edgellm.runtime.client import WorkerClient
from edgellm.stages.judge import judge_device
from edgellm.stages.report import write_verification
from edgellm.stages.verify import Verification, verify_on
from tests.tiny import TEXTS, tiny_bundle


class Elsewhere(Host):
    """This host under another name; a CPU that computes otherwise is one that gets another bundle's file."""

    emulated = True

    def __init__(self, name: str, instead: Path | None = None) -> None:
        self.name = name
        self._instead = instead

    def push(self, path: Path) -> str:
        return str(self._instead or path)


class Broken(Elsewhere):
    def start(self, fmt: str, *, counting: bool = False) -> WorkerClient:
        raise DeviceError("no worker starts there")


def verify(bundle: Bundle, *devices: Host, **options: int) -> tuple[Verification, ...]:
    return verify_on(bundle, devices, **options)  # type: ignore[arg-type]


def test_what_runs_elsewhere_is_compared_with_this_host(embedder: Bundle) -> None:
    (result,) = verify(embedder, Elsewhere("emulator:a"))
    (verdict,) = result.artifacts
    assert (result.device, result.emulated, result.ok) == ("emulator:a", True, True)
    assert list(verdict.against) == ["host"]
    assert verdict.against["host"].mean == pytest.approx(1, abs=1e-9)
    assert verdict.agreement.device == "emulator:a"


def test_a_kernel_that_computes_otherwise_shows_and_fails(tmp_path: Path) -> None:
    good = tiny_bundle(tmp_path / "good")
    other = tiny_bundle(tmp_path / "other", noise=0.5)
    a, b = verify(good, Elsewhere("emulator:a"), Elsewhere("emulator:b", other.path))
    assert (a.ok, b.ok) == (True, False), "a is as good as the host"
    assert a.artifacts[0].agreement.mean > 0.999
    assert a.artifacts[0].against["host"].mean > 0.999
    assert a.artifacts[0].against["emulator:b"].mean < 0.95
    assert b.artifacts[0].against["emulator:a"].mean == pytest.approx(a.artifacts[0].against["emulator:b"].mean)
    with pytest.raises(GateError) as caught:
        judge_device(b, good.manifest.min_agreement)
    message = str(caught.value)
    assert "onnx-fp32 on emulator:b agrees with the fp32 model by 0." in message
    assert "agrees with the same file on the host by 0." in message
    assert any(text[:20] in message for text in TEXTS)
    assert "--scheme int8-weight-only" in message


def test_the_host_alone_is_compared_with_nothing_else(embedder: Bundle) -> None:
    (result,) = verify(embedder, Host(), cases=2)
    assert result.artifacts[0].against == {}
    assert result.artifacts[0].agreement.n == 2


def test_progress_tells_every_run(embedder: Bundle) -> None:
    told: list[tuple[str, str]] = []
    verify_on(embedder, [Elsewhere("emulator:a")], cases=1, told=lambda *what: told.append(what))
    assert sorted(told) == [("emulator:a", "onnx-fp32"), ("host", "onnx-fp32")]


def test_a_device_that_fails_is_the_error(embedder: Bundle) -> None:
    with pytest.raises(DeviceError, match="no worker starts there"):
        verify(embedder, Broken("emulator:a"))


def test_a_smaller_check_does_not_replace_a_fuller_report_and_a_failure_does(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    bad = tiny_bundle(tmp_path / "bad", noise=0.5)

    def keep(cases: int, instead: Path | None = None) -> tuple[bool, int]:
        (result,) = verify(bundle, Elsewhere("emulator:a", instead), cases=cases)
        report = json.loads(write_verification(bundle, result).read_text())
        return report["ok"], report["artifacts"][0]["agreement"]["n"]

    assert keep(5) == (True, 5)
    assert keep(2) == (True, 5)
    assert keep(1, bad.path) == (False, 1)
    assert keep(2) == (True, 2)
    assert keep(3, bad.path) == (False, 3)
    assert keep(2) == (False, 3), "fewer cases that pass do not hide a failure"


def test_an_interrupt_ends_every_worker_at_once(embedder: Bundle) -> None:
    started = []

    class Slow(Elsewhere):
        def start(self, fmt: str, *, counting: bool = False) -> WorkerClient:
            worker = WorkerClient([sys.executable, "-c", "import time; time.sleep(60)"], what=self.name)
            started.append(worker)
            return worker

    def interrupted(device: str, artifact: str) -> None:
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        verify_on(embedder, [Slow("emulator:a")], cases=1, told=interrupted)
    assert time.monotonic() - begin < 30
    assert len(started) == 1


def test_a_report_is_outside_of_what_the_manifest_hashes_and_names_it(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    before = (bundle.path / "manifest.json").read_bytes()
    (result,) = verify(bundle, Elsewhere("emulator:cortex-a72"))
    for _ in range(2):  # the second replaces the first
        path = write_verification(bundle, result)
    assert path == bundle.path / "reports" / "verify-emulator-cortex-a72.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    data = json.loads(path.read_text(encoding="utf-8"))
    assert (data["device"], data["emulated"], data["ok"]) == ("emulator:cortex-a72", True, True)
    assert data["artifacts"][0]["engine"].startswith("onnxruntime ")
    assert data["artifacts"] == strict.plain(result.artifacts)
    assert len(data["manifest_sha256"]) == 64
    assert (bundle.path / "manifest.json").read_bytes() == before
    bundle.use_all()
