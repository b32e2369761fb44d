"""Pruning on the command line: the model is smaller, builds, runs, learns again, and nothing is half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Bundle, Session
from edgellm.texts import default_texts

from .conftest import edgellm

pytestmark = pytest.mark.integration
Model = Callable[[str], Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labels of nothing in particular: the model's weights are random as well."""
    labels = ("calm", "glad", "sad")
    rows = [{"text": text, "label": labels[len(text) % 3]} for text in default_texts("calibration")]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prune(model: Path, out: Path, *more: str) -> dict[str, Any]:
    """Prune by 0.4 and return what `--json` prints."""
    done = edgellm("prune", str(model), "--sparsity", "0.4", "--out", str(out), "--max-drop", "100", "--json", *more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_pruned_model_builds_and_runs_like_any_other(model: Model, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    found = prune(model("classifier"), out, "--data", str(data), "--format", "onnx", "--scheme", "fp32", "--max-tokens", "24",
                  "--threads", "1")  # fmt: skip
    assert abs(found["sparsity"] - 0.4) < 0.03
    assert found["encoder"]["after"] == round(found["encoder"]["before"] * (1 - found["sparsity"]))
    assert (
        found["parameters"]["before"] - found["parameters"]["after"]
        == found["encoder"]["before"] - found["encoder"]["after"]
    )
    assert found["macs"]["after"] < 0.8 * found["macs"]["before"]
    assert all(layer["heads"] >= 1 and layer["ffn"] % 8 == 0 for layer in found["layers"])
    assert found["quality"]["metric"] == "accuracy"
    assert set(found["speed"]["ratios"]) == {"onnx"}
    assert [record["id"] for record in found["speed"]["after"]] == ["pruned onnx-fp32"] * 2
    assert [record["tokens"] for record in found["speed"]["after"]] == [16, 24]
    assert json.loads((out / "pruning.json").read_text(encoding="utf-8")) == found
    done = edgellm(
        "build",
        str(out),
        "--target",
        "linux-x86_64",
        "--scheme",
        "fp32",
        "--format",
        "onnx",
        "--out",
        str(tmp_path / "b"),
    )
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.model.parameters == found["parameters"]["after"]
    answer: Any = Session.open(bundle.path)("The boots are red.").value
    assert {item["label"] for item in answer} == {"calm", "glad", "sad"}


@pytest.mark.full
def test_without_labels_an_encoder_keeps_near_to_itself(model: Model, tmp_path: Path) -> None:
    found = prune(model("encoder"), tmp_path / "small", "--no-measure", "--structure", "ffn,layers")
    assert found["quality"]["before"] is None
    assert found["quality"]["pruned"] == pytest.approx(1 - found["quality"]["lost"]["points"] / 100)
    assert "cosine similarity" in found["quality"]["metric"]
    assert found["speed"] is None
    assert all(layer["heads"] in (0, layer["of_heads"]) for layer in found["layers"])


def test_what_is_left_learns_from_the_whole(model: Model, data: Path, tmp_path: Path) -> None:
    found = prune(
        model("classifier"), tmp_path / "small", "--no-measure", "--data", str(data), "--recover", "2", "--rate", "1e-3",
        "--precision", "bf16",
    )  # fmt: skip
    assert found["quality"]["recovered"] is not None
    assert abs(found["sparsity"] - 0.4) < 0.03
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "small"]


def test_too_large_a_loss_writes_nothing(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "small"
    done = edgellm(
        "prune", str(model("encoder")), "--sparsity", "0.8", "--max-drop", "0", "--no-measure", "--out", str(out)
    )  # fmt: skip
    assert done.returncode == 5
    assert "Nothing was written." in done.stderr
    assert not out.exists()
    assert not list(tmp_path.iterdir())


def test_what_an_architecture_cant_lose_is_refused(model: Model, tmp_path: Path) -> None:
    done = edgellm("prune", str(model("own-attention")), "--sparsity", "0.4", "--out", str(tmp_path / "small"))
    assert done.returncode == 3
    assert "DebertaV2Model has no layers that edgellm knows how to prune." in done.stderr
