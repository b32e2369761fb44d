"""The fine-tuning sample, run as its README says on a slice of data and a small model: data in, a table out."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import edgellm
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.integration

SAMPLE = Path(__file__).parents[2] / "samples" / "finetune"
THINGS = ("kettle", "river", "road", "lighthouse", "window", "train", "dog", "garden", "letter", "winter")
PLACES = ("at home", "by the sea", "in the morning", "after the rain", "in town")
WORDS = {"glad": ("good", "warm", "kind"), "sad": ("bad", "cold", "broken")}
QUICK = ("--epochs", "10", "--rate", "1e-3", "--max-tokens", "32")


@dataclass(frozen=True)
class Trained:
    """What training left."""

    data: Path
    model: Path
    said: str

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.model / "training.json").read_bytes())
        return facts


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def refused(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1], done.stderr


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 short texts, of which each part has its own."""
    folder = tmp_path_factory.mktemp("data") / "weather"
    folder.mkdir()
    rows = [
        (f"The {thing} was {word} {place}.", label)
        for thing, place in itertools.product(THINGS, PLACES)
        for label, words in WORDS.items()
        for word in words
    ]
    for offset, (name, step) in enumerate({"dev": 5, "test": 5}.items()):
        write(folder / f"{name}.tsv", rows[offset::step])
    write(folder / "train.tsv", [row for i, row in enumerate(rows) if i % 5 > 1])
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("trained") / "classifier"
    done = run("train.py", data, "--out", out, "--model", model("encoder"), *QUICK)
    assert done.returncode == 0, done.stderr
    return Trained(data, out, done.stdout)


def test_training_learns_and_says_how(trained: Trained) -> None:
    facts = trained.facts
    assert facts["test_accuracy"] > 0.8
    assert facts["chosen_epoch"] == 1 + facts["dev_accuracy"].index(max(facts["dev_accuracy"]))
    assert len(facts["dev_accuracy"]) == facts["epochs"] == 10
    assert facts["texts"] == {"train": 180, "dev": 60, "test": 60}
    assert re.search(rf"^seed {facts['seed']}, 10 epochs in \d+ s, .*cores", trained.said, re.M)
    assert f"test accuracy {facts['test_accuracy']:.4f}, macro-F1" in trained.said
    config = json.loads((trained.model / "config.json").read_bytes())
    assert config["id2label"] == {"0": "glad", "1": "sad"}
    names = {path.name for path in trained.model.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"}
    assert [path.name for path in trained.model.parent.iterdir()] == ["classifier"], "checkpoints are left"


def test_the_same_seed_gives_the_same_model(trained: Trained, model: Callable[[str], Path], tmp_path: Path) -> None:
    weights = {}
    for seed in (trained.facts["seed"], 12):
        done = run(
            "train.py",
            trained.data,
            "--out",
            tmp_path / f"m{seed}",
            "--model",
            model("encoder"),
            "--seed",
            seed,
            *QUICK,
        )
        assert done.returncode == 0, done.stderr
        weights[seed] = (tmp_path / f"m{seed}" / "model.safetensors").read_bytes()
    assert weights[trained.facts["seed"]] == (trained.model / "model.safetensors").read_bytes()
    assert weights[12] != weights[trained.facts["seed"]]


def test_the_report_scores_the_model_and_its_artifacts(trained: Trained, tmp_path: Path) -> None:
    bundle, readme = tmp_path / "bundle", tmp_path / "README.md"
    built = edgellm(
        "build", str(trained.model), "--target", "linux-x86_64", "--format", "onnx", "--seq-len", "16,32",
        "--eval", str(trained.data / "dev.tsv"), "--min-agreement", "0.9", "--out", str(bundle),
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    readme.write_text("Before.\n<!-- weather -->\nold\n<!-- end of weather -->\nAfter.\n", encoding="utf-8")
    done = run("report.py", trained.model, bundle, trained.data, "--paste", readme)
    assert done.returncode == 0, done.stderr
    assert readme.read_text(encoding="utf-8") == (
        f"Before.\n<!-- weather -->\n\n{done.stdout}\n<!-- end of weather -->\nAfter.\n"
    )
    facts = trained.facts
    fp32, onnx = (line for line in done.stdout.splitlines() if re.match(r"\| \w", line))
    assert f"| {facts['test_accuracy']:.2%} | {facts['test_macro_f1']:.2%} |".replace("%", " %") in fp32
    assert re.match(
        r"\| onnx, int8-dynamic \| 0\.\d \| (\d+)\.\d\d % \| .* \| -?\d\.\d\d \| \d \(\d\.\d\d %\) \| \d / \d \|",
        onnx,
    )
    assert "60 texts of weather (30 glad, 30 sad), cut at 32 tokens" in done.stdout
    assert f"seed {facts['seed']}" in done.stdout

    # What was saved is the epoch that the dev texts chose.
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "test.tsv").write_bytes((trained.data / "dev.tsv").read_bytes())
    done = run("report.py", trained.model, bundle, dev)
    assert f"| {max(facts['dev_accuracy']):.2%} |".replace("%", " %") in done.stdout
    refused(run("report.py", trained.model, bundle, dev, "--paste", readme), 3, "no place between <!-- dev -->")
    refused(run("report.py", tmp_path, bundle, dev), 3, "no model.safetensors")
    other = tiny_bundle(tmp_path / "other")
    refused(run("report.py", trained.model, other.path, dev), 6, "no classifier")


def test_data_that_would_mislead_is_refused(data: Path, tmp_path: Path) -> None:
    def attempt(name: str, rows: list[tuple[str, str]]) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / name
        folder.mkdir()
        parts = {part: (data / f"{part}.tsv").read_text(encoding="utf-8") for part in ("train", "dev", "test")}
        parts["test"] += "".join(f"{text}\t{label}\n" for text, label in rows)
        for part, text in parts.items():
            (folder / f"{part}.tsv").write_text(text, encoding="utf-8")
        return run("train.py", folder, "--out", tmp_path / "never")

    seen = (data / "train.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
    refused(attempt("overlap", [(seen.upper(), "sad")]), 3, "both hold")
    refused(attempt("label", [("The dog barked.", "angry")]), 3, "labels that train.tsv has not: angry")
    refused(run("train.py", tmp_path, "--out", tmp_path / "never"), 3, "train.tsv can't be read")
    assert not (tmp_path / "never").exists()
    refused(run("train.py", data, "--out", data), 2, "is there already")
    refused(run("train.py", data, "--out", tmp_path / "never", "--model", tmp_path), 3, "is no model")
