"""`--json`: one object on standard output, with the fields that scripts were promised, and nothing else there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.core import strict
from edgellm.runtime import Bundle
from edgellm.targets import target_names
from tests.tiny import LABELS, TEXTS, tiny_bundle
from tests.unit.cli.command import call, spawn

RECORD = {
    "id", "format", "tokens", "threads", "runs", "load_ms", "first_ms", "tokenize_ms", "p50_ms", "p90_ms", "p99_ms",
    "mean_ms", "cpu_ms", "peak_rss_mb",
}  # fmt: skip
MACHINE = {"cpu", "arch", "cores", "features", "governor", "load", "system", "python", "emulated"}


def only_object(text: str) -> dict[str, Any]:
    """Return the one JSON object that `text` is; NaN is no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert text.count("\n") == 1
    data = json.loads(text, parse_constant=refuse)
    assert isinstance(data, dict)
    return data


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
        done = call(capsys, *arguments, "--json")
        assert (done.code, done.err) == (code, "")
        return only_object(done.out)

    return ask


def test_run_prints_one_object_whatever_engines_print(embedder: Bundle) -> None:
    done = spawn("run", embedder.path, "red boots 🐟", "--json")
    assert (done.code, done.err) == (0, "")
    data = only_object(done.out)
    assert set(data) == {"value", "format", "timing", "truncated"}
    assert (len(data["value"]), data["format"], data["truncated"]) == (8, "onnx", False)
    assert set(data["timing"]) == {"tokenize_ms", "inference_ms"}
    assert all(ms > 0 for ms in data["timing"].values())


def test_run_of_a_classifier(ask: Any, classifier: Bundle) -> None:
    data = ask("run", classifier.path, "boots " * 50)
    assert [set(row) for row in data["value"]] == [{"label", "score"}] * len(LABELS)
    assert data["truncated"] is True


@pytest.mark.parametrize(("runs", "resolved"), [(99, False), (100, True)])
def test_bench_gives_no_p99_under_100_runs(ask: Any, embedder: Bundle, runs: int, resolved: bool) -> None:
    data = ask("bench", embedder.path, "--runs", str(runs), "--warmup", "0", "--tokens", "5")
    (record,) = data["records"]
    assert record["runs"] == runs
    assert (record["p99_ms"] is not None) is resolved
    assert record["p50_ms"] <= record["p90_ms"] <= (record["p99_ms"] or record["p90_ms"])


def test_bench_has_a_record_per_artifact_and_length_and_says_what_it_ran_on(ask: Any, embedder: Bundle) -> None:
    data = ask("bench", embedder.path, "--runs", "2", "--warmup", "1", "--tokens", "30,3,5", "--threads", "2")
    assert {"machine", "records"} <= set(data)
    assert set(data["machine"]) == MACHINE
    assert [set(record) for record in data["records"]] == [RECORD] * 3
    assert [record["tokens"] for record in data["records"]] == [3, 5, 30]
    for record in data["records"]:
        assert (record["format"], record["threads"], record["runs"]) == ("onnx", 2, 2)
        for field in ("load_ms", "first_ms", "tokenize_ms", "p50_ms", "mean_ms", "peak_rss_mb"):
            assert record[field] > 0, field


def test_bench_without_lengths_measures_up_to_the_longest(ask: Any, embedder: Bundle) -> None:
    data = ask("bench", embedder.path, "--runs", "1", "--warmup", "0")
    assert [record["tokens"] for record in data["records"]] == [16, 32]


def test_verify(ask: Any, embedder: Bundle) -> None:
    data = ask("verify", embedder.path)
    assert (data["device"], data["emulated"], data["ok"]) == ("host", False, True)
    (artifact,) = data["artifacts"]
    assert set(artifact) == {"id", "format", "ok", "engine", "agreement", "against"}
    assert artifact["engine"].startswith("onnxruntime 1.")
    assert (artifact["against"], data["machine"]["emulated"]) == ({}, False)
    assert (artifact["id"], artifact["format"], artifact["ok"]) == ("onnx-fp32", "onnx", True)
    assert {"metric", "mean", "min", "n", "worst"} <= set(artifact["agreement"])
    assert artifact["agreement"]["n"] == len(TEXTS)


def test_verify_of_an_artifact_that_disagrees_exits_with_the_gate_s_code_and_says_which(
    ask: Any, tmp_path: Path
) -> None:
    data = ask("verify", tiny_bundle(tmp_path / "bundle", noise=0.8).path, code=5)
    assert data["ok"] is False
    assert data["artifacts"][0]["ok"] is False
    assert data["artifacts"][0]["agreement"]["mean"] < 0.99


def test_inspect_is_the_manifest(ask: Any, embedder: Bundle) -> None:
    assert ask("inspect", embedder.path) == strict.plain(embedder.manifest)


def test_targets(ask: Any) -> None:
    data = ask("targets")
    assert [target["name"] for target in data["targets"]] == target_names()
    one = ask("targets", "raspberry-pi-4")["targets"]
    assert [target["name"] for target in one] == ["raspberry-pi-4"]
    assert {"arch", "abi", "cpu_features", "delegates", "formats", "scheme", "toolchain", "runtimes", "tier"} <= set(
        one[0]
    )


def test_doctor(ask: Any) -> None:
    data = ask("doctor")
    assert data["ok"] is True
    assert {p["name"] for p in data["packages"]} >= {"numpy", "tokenizers", "click", "torch", "onnxruntime"}
    assert [(f["format"], f["can_build"], f["missing"]) for f in data["formats"]] == [
        ("executorch", True, []), ("executorch-coreml", True, []), ("executorch-vulkan", True, []), ("mlpackage", True, []),
        ("onnx", True, []), ("qnn", True, []), ("tflite", True, []), ("tflite-ethos-u", True, []),
    ]  # fmt: skip


@pytest.mark.parametrize(("version", "ok"), [("0.1.0", False), (None, None)])
def test_doctor_notices_what_is_outside_the_tested_range_and_what_misses(
    ask: Any, monkeypatch: pytest.MonkeyPatch, version: str | None, ok: bool | None
) -> None:
    import importlib.metadata as metadata

    real = metadata.version

    def planted(name: str) -> str:
        if name != "litert-torch":
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", planted)
    data = ask("doctor", code=4 if ok is False else 0)
    (package,) = [p for p in data["packages"] if p["name"] == "litert-torch"]
    assert (package["found"], package["ok"]) == (version, ok)
    (tflite,) = [f for f in data["formats"] if f["format"] == "tflite"]
    assert tflite["missing"] == ([] if version else ["litert-torch"])


@pytest.mark.parametrize("command", ["run", "bench", "verify", "inspect"])
def test_without_json_people_get_words_and_no_colours_when_piped(
    capsys: pytest.CaptureFixture[str], embedder: Bundle, command: str
) -> None:
    more = {"run": ["red boots"], "bench": ["--runs", "1", "--tokens", "5"], "verify": [], "inspect": []}[command]
    done = call(capsys, command, embedder.path, *more)
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    words = {"run": "onnx: ", "bench": "n/a", "verify": "cosine similarity", "inspect": "tokens from 2"}[command]
    assert words in done.out
