"""The main job on the real model: three int8 formats from one command, checked against fp32."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from edgellm.core.scheme import PORTABLE
from edgellm.runtime import Bundle, Session
from edgellm.targets import load_target, target_names

from .conftest import edgellm

pytestmark = pytest.mark.integration

FORMATS = ("executorch", "tflite", "onnx")
TARGETS = {name: load_target(name) for name in target_names()}
CPUS = [name for name, target in TARGETS.items() if set(map(target.backend, target.formats)) <= set(PORTABLE)]
MAX_MB = {"executorch": 24, "onnx": 24, "tflite": 27}


def test_build_prints_the_manifest_and_the_time_of_each_stage(demo_build: dict[str, object]) -> None:
    bundle = Bundle.open(str(demo_build["bundle"]))
    assert demo_build["manifest"] == json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    stages = {"source", "reference", "lower executorch", "lower onnx", "lower tflite", "gate", "package"}
    assert set(demo_build["seconds"]) == stages  # type: ignore[call-overload]


def test_manifest_fits_its_schema(demo_bundle: Bundle) -> None:
    schema = json.loads(importlib.resources.files("edgellm.core").joinpath("manifest.schema.json").read_text())
    manifest = json.loads((demo_bundle.path / "manifest.json").read_text(encoding="utf-8"))
    jsonschema.validate(manifest, schema)
    assert manifest["model"]["licence"] == "apache-2.0"
    assert manifest["model"]["parameters"] == 22_713_728


def test_artifacts_are_small_and_agree(demo_bundle: Bundle) -> None:
    artifacts = {a.format: a for a in demo_bundle.manifest.artifacts}
    assert tuple(artifacts) == FORMATS  # the target's order of preference
    for fmt, artifact in artifacts.items():
        assert artifact.scheme == "int8-dynamic"
        assert artifact.bytes < MAX_MB[fmt] * 1e6
        assert artifact.agreement.mean >= 0.99
        assert artifact.agreement.n >= 64
        kinds = {row.kind: row.bytes for row in artifact.contents}
        # 30,522 rows of 384 numbers: int8 tables take 11.7 MB, fp32 ones would take 46.9.
        assert 11.7e6 < kinds["embedding tables"] < 12.2e6
        assert sum(kinds.values()) == artifact.bytes
    assert artifacts["executorch"].delegate == "xnnpack"
    delegations = {fmt: artifact.delegation for fmt, artifact in artifacts.items()}
    assert all(found is not None and found.share_of_cost == 1 for found in delegations.values())
    costs = [found.cost_inside for found in delegations.values() if found]
    assert max(costs) < 1.01 * min(costs)  # one graph, whatever the format
    assert delegations["executorch"] is not None
    assert delegations["executorch"].partitions in range(1, 5)
    assert delegations["executorch"].share_of_operators > 0.95
    assert all(each.cause for each in delegations["executorch"].fallbacks)
    assert artifacts["tflite"].signature.buckets == (16, 32, 64, 128)


def test_bundle_holds_golden_cases_and_a_bare_tokenizer(demo_bundle: Bundle) -> None:
    tokenizer = json.loads((demo_bundle.path / "tokenizer.json").read_text(encoding="utf-8"))
    assert tokenizer["padding"] is None
    assert tokenizer["truncation"] is None
    cases = list(demo_bundle.golden())
    assert len(cases) >= 64
    for case in cases:
        assert case.feeds[0]["input_ids"].shape == case.feeds[0]["attention_mask"].shape
        vector = case.outputs[0]["embedding"]
        assert vector.shape == (1, 384)
        assert np.allclose(np.linalg.norm(vector), 1, atol=1e-5)
        assert np.allclose(case.value, vector[0])


def test_golden_cases_are_what_sentence_transformers_computes(demo_bundle: Bundle, tmp_path: Path) -> None:
    texts = [case.input for case in demo_bundle.golden()][:24]
    script = tmp_path / "oracle.py"
    script.write_text(
        "import json, sys\n"
        "from sentence_transformers import SentenceTransformer\n"
        "from edgellm.stages.source import default_model\n"
        "model = SentenceTransformer(str(default_model()), device='cpu')\n"
        "model.max_seq_length = 128\n"
        "print(json.dumps(model.encode(json.loads(sys.stdin.read())).tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    oracle = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)
    ours = np.array([case.outputs[0]["embedding"][0] for case in demo_bundle.golden()][:24])
    assert np.abs(oracle - ours).max() < 1e-5


def test_verify_passes_here_and_now(demo_bundle: Bundle) -> None:
    done = edgellm("verify", str(demo_bundle.path), "--cases", "12", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["device"], report["emulated"], report["ok"]) == ("host", False, True)
    assert [item["format"] for item in report["artifacts"]] == list(FORMATS)
    assert all(item["agreement"]["n"] == 12 for item in report["artifacts"])


@pytest.mark.parametrize("fmt", FORMATS)
def test_any_text_runs(demo_bundle: Bundle, fmt: str) -> None:
    session = Session.open(demo_bundle.path, format=fmt)
    texts = [
        "",
        "a",
        "\0",
        "🦔" * 40,
        "word " * 10_000,
        "مرحبا ようこそ नमस्ते",
        "[CLS] [SEP] [PAD]",
        "\n\t ",
        "x" * 5000,
    ]
    results = session(texts)
    for text, result in zip(texts, results, strict=True):
        assert result.format == fmt
        assert result.value.dtype == np.float32  # type: ignore[attr-defined]
        assert np.isfinite(result.value).all()  # type: ignore[call-overload]
        assert np.allclose(np.linalg.norm(result.value), 1, atol=1e-4), text[:10]  # type: ignore[call-overload]
        assert result.truncated == (text == "word " * 10_000)
        assert result.timing.inference_ms > 0


def test_padding_to_a_bucket_changes_nothing_that_matters(demo_bundle: Bundle) -> None:
    """A text of 17 tokens runs at 32 in TFLite and at 17 elsewhere, and means the same."""
    text = "Seventeen tokens of text, no more and no less, go into this sentence here."
    vectors = [Session.open(demo_bundle.path, format=fmt)(text).value for fmt in FORMATS]
    for other in vectors[1:]:
        assert np.dot(vectors[0], other) > 0.98  # type: ignore[arg-type]


def test_second_build_takes_seconds_and_imports_no_torch(demo_bundle: Bundle, tmp_path: Path) -> None:
    script = (
        "import sys, time, edgellm\n"
        "start = time.perf_counter()\n"
        f"edgellm.build(target='android-arm64', out={str(tmp_path / 'again')!r})\n"
        "print(time.perf_counter() - start)\n"
        "assert not {'torch', 'transformers', 'executorch', 'onnx', 'litert_torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first = json.loads((demo_bundle.path / "manifest.json").read_text())
    again = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert first == again
    assert float(done.stdout) < 15  # the cold build takes minutes; this is no latency claim but the cache at work


@pytest.mark.parametrize("target", [name for name in CPUS if name != "android-arm64"])
def test_every_cpu_target_builds(demo_bundle: Bundle, target: str, tmp_path: Path) -> None:
    done = edgellm("build", "--target", target, "--out", str(tmp_path / target), "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(Bundle.open(tmp_path / target).manifest.artifacts) == 3


def test_bench_measures_with_one_thread_and_charges_short_texts_less(demo_bundle: Bundle) -> None:
    done = edgellm("bench", str(demo_bundle.path), "--tokens", "10,128", "--runs", "20", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["cores"] >= 1
    records = {(r["format"], r["tokens"]): r for r in report["records"]}
    assert set(records) == {(fmt, n) for fmt in FORMATS for n in (10, 128)}
    for (fmt, tokens), record in records.items():
        assert record["p99_ms"] is None, "20 runs can't resolve a p99"
        assert 0 < record["p50_ms"] <= record["p90_ms"]
        assert record["peak_rss_mb"] > 20
        if tokens == 128:
            assert record["cpu_ms"] < 1.3 * record["mean_ms"], f"{fmt} computes with more than one thread"
            assert record["p50_ms"] > 2.5 * records[fmt, 10]["p50_ms"], f"{fmt} pays for padding"


@pytest.mark.full
def test_the_real_model_builds_the_same_bytes_twice(demo_bundle: Bundle, tmp_path: Path) -> None:
    done = edgellm("build", "--target", "android-arm64", "--no-cache", "--out", str(tmp_path / "b"), "--quiet")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "manifest.json").read_bytes() == (demo_bundle.path / "manifest.json").read_bytes()
