"""The fine-tuning sample, run as its README says on a few rows and a small model: data in, a table out."""

from __future__ import annotations

import itertools
import json
import re
import shutil
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
QUICK = ("--epochs", "12", "--rate", "3e-3", "--max-tokens", "32")
WORDS = {"glad": ("good", "warm", "kind"), "sad": ("bad", "cold", "broken")}
TEXTS = [
    {"text": f"The {thing} was {word} {place}.", "label": label}
    for thing, place in itertools.product(
        ("kettle", "river", "road", "garden", "dog"), ("at home", "in town", "by day", "at night", "again", "today")
    )
    for label, words in WORDS.items()
    for word in words
]
ADDRESSES = [
    {"tokens": [number, *street, end], "tags": ["Number", *["Street"] * len(street), "Ending"]}
    for number, street, end in itertools.product(
        ("7", "12", "30,", "4½", "99"),
        (["River"], ["Old", "Kettle"], ["Garden"], ["Dog"], ["Warm", "River"], ["Town"]),
        ("Road", "Street,", "Way", "Lane", "Court", "Row,"),
    )
]
KINDS = {
    "weather": (TEXTS, "texts", "36 texts of weather (18 glad, 18 sad)", r"accuracy \| macro-F1"),
    "places": (ADDRESSES, "words", "36 texts of places (120 words, 3 tags)", r"entity F1 .*\| word accuracy"),
}
"""Name of the data: its rows, what is scored, how its test texts are described, and the metrics of its task."""


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


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sets of 180 rows, of which each part has its own."""
    folder = tmp_path_factory.mktemp("data")
    for name, (rows, *_) in KINDS.items():
        (folder / name).mkdir()
        write(folder / name / "dev.jsonl", rows[::5])
        write(folder / name / "test.jsonl", rows[1::5])
        write(folder / name / "train.jsonl", [row for i, row in enumerate(rows) if i % 5 > 1])
    return folder


@pytest.fixture(scope="module")
def trained(
    data: Path, model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    """Return the model that was trained on a set of rows."""
    made: dict[str, Trained] = {}

    def get(name: str) -> Trained:
        if name not in made:
            out = tmp_path_factory.mktemp("trained") / "model"
            done = run("train.py", data / name, "--out", out, "--model", model("encoder"), *QUICK)
            assert done.returncode == 0, done.stderr
            made[name] = Trained(data / name, out, done.stdout)
        return made[name]

    return get


@pytest.mark.parametrize("name", ["weather", pytest.param("places", marks=pytest.mark.full)])
def test_training_learns_and_says_how(trained: Callable[[str], Trained], name: str) -> None:
    it, scored = trained(name), KINDS[name][1]
    facts = it.facts
    assert facts["test_accuracy"] > 0.8
    assert facts["chosen_epoch"] == 1 + facts["dev_accuracy"].index(max(facts["dev_accuracy"]))
    assert len(facts["dev_accuracy"]) == facts["epochs"] == 12
    assert facts["texts"] == {"train": 108, "dev": 36, "test": 36}
    assert re.search(rf"^seed {facts['seed']}, 12 epochs in \d+ s, .*cores", it.said, re.M)
    assert f"test accuracy of {scored} {facts['test_accuracy']:.4f}, macro-F1" in it.said
    config = json.loads((it.model / "config.json").read_bytes())
    labels = ("glad", "sad") if name == "weather" else ("Ending", "Number", "Street")
    assert config["id2label"] == {str(i): label for i, label in enumerate(labels)}
    names = {path.name for path in it.model.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"}
    assert [path.name for path in it.model.parent.iterdir()] == ["model"], "checkpoints are left"


@pytest.mark.full
def test_the_same_seed_gives_the_same_model(
    trained: Callable[[str], Trained], model: Callable[[str], Path], tmp_path: Path
) -> None:
    it = trained("weather")
    done = run("train.py", it.data, "--out", tmp_path / "again", "--model", model("encoder"), *QUICK)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (it.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["weather", pytest.param("places", marks=pytest.mark.full)])
def test_the_report_scores_the_model_and_its_artifacts(
    trained: Callable[[str], Trained], tmp_path: Path, name: str
) -> None:
    it, (_, scored, described, metrics) = trained(name), KINDS[name]
    bundle, readme = tmp_path / "bundle", tmp_path / "README.md"
    built = edgellm(
        "build", str(it.model), "--target", "linux-x86_64", "--format", "onnx", "--seq-len", "16,32", "--out", str(bundle),
        "--eval", str(it.data / "dev.jsonl"), "--min-agreement", "0.5", "--max-drop", "100",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    shutil.copy(SAMPLE / "README.md", readme)
    place = f"<!-- {name} -->\nold\n<!-- end of {name} -->\n"
    readme.write_text(f"{readme.read_text(encoding='utf-8')}\n{place}\nAfter.\n", encoding="utf-8")
    before = readme.read_text(encoding="utf-8")
    done = run("report.py", it.model, bundle, it.data, "--paste", readme)
    assert done.returncode == 0, done.stderr
    assert readme.read_text(encoding="utf-8") == before.replace(
        place, f"<!-- {name} -->\n\n{done.stdout}\n<!-- end of {name} -->\n"
    )
    facts = it.facts
    head, rule, fp32, onnx = done.stdout.splitlines()[:4]
    assert re.fullmatch(rf"\| \| MB \| {metrics} \| points of .* lost \| McNemar p \| decisions changed \|", head)
    assert {line.count("|") for line in (head, rule, fp32, onnx)} == {head.count("|")}
    assert f"| {100 * facts['test_accuracy']:.2f} % |" in fp32
    assert re.fullmatch(
        r"\| onnx, int8-dynamic \| 0\.\d (\| \d+\.\d\d % )+\| -?\d+\.\d\d \(-?\d+\.\d\d to -?\d+\.\d\d\) \| [\d.]+ "
        r"\| \d+ \(\d+\.\d\d %\) \|",
        onnx,
    )
    assert f"{described}, 0 of them cut at 32 tokens; target linux-x86_64" in done.stdout
    assert (
        f"Trained on 108 texts in {facts['seconds']:.0f} s, seed {facts['seed']}; dev accuracy of {scored} by"
        in done.stdout
    )


def test_a_report_that_would_mislead_is_refused(data: Path, tmp_path: Path) -> None:
    readme, other = tmp_path / "README.md", tiny_bundle(tmp_path / "other", "text-classification")
    readme.write_text("<!-- other -->\n", encoding="utf-8")
    weather = data / "weather"
    refused(run("report.py", weather, other.path, weather, "--paste", readme), 3, "no place between <!-- weather -->")
    refused(run("report.py", weather, other.path, weather), 3, "The model knows no label 'glad'")
    refused(run("report.py", weather, other.path, tmp_path), 3, "test.jsonl can't be read")
    write(tmp_path / "test.jsonl", [{"text": "The kettle is on.", "label": "neutral"}])
    refused(run("report.py", weather, other.path, tmp_path), 3, "weather")


def test_data_that_would_mislead_is_refused(data: Path, tmp_path: Path) -> None:
    never, weather = tmp_path / "never", data / "weather"

    def attempt(name: str, row: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        folder = shutil.copytree(weather, tmp_path / name)
        write(folder / "test.jsonl", [row])
        return run("train.py", folder, "--out", never)

    seen = json.loads((weather / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    refused(attempt("overlap", {"text": seen.upper(), "label": "sad"}), 3, "both hold")
    refused(attempt("label", {"text": "The dog barked.", "label": "angry"}), 3, "that train.jsonl has not: angry")
    refused(attempt("kind", {"tokens": ["a"], "tags": ["sad"]}), 3, "has other columns than train.jsonl")
    refused(run("train.py", tmp_path, "--out", never), 3, "train.jsonl can't be read")
    assert not never.exists()
    refused(run("train.py", weather, "--out", weather), 2, "is there already")
    refused(run("train.py", weather, "--out", never, "--model", tmp_path), 3, "is no model")
