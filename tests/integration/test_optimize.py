"""The whole road by one recipe: it ends where the goal is met, goes on after it was cut off, and refuses what can't be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Session
from edgellm.texts import default_texts

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration
Model = Callable[[str], Path]

RECIPE = """\
model = "{model}"
target = "linux-x86_64"
format = "onnx"
seq_len = [16, 32]
min_agreement = 0.0

[data]
train = "train.jsonl"
dev = "dev.jsonl"
test = "test.jsonl"

[goal]
max_drop = 100
max_mb = {max_mb}

[budget]
steps = {steps}

[[shrink]]
layers = 1
epochs = 1

[[shrink]]
sparsity = 0.3
structure = "ffn"
epochs = 0
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of nothing in particular, in three parts: the model's weights are random as well."""
    folder = tmp_path_factory.mktemp("optimize")
    labels = ("calm", "glad", "sad")
    texts = [
        text
        for name in ("held_out", "english")
        for text in (ROOT / "tests" / "figures" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    ]
    rows = [{"text": text, "label": labels[len(text) % 3]} for text in texts]
    for name, part in (("train", rows[:50]), ("dev", rows[50:80]), ("test", rows[80:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    lines = [row["text"] for row in rows[50:80]]
    (folder / "dev.txt").write_text(
        "".join(f"{line}\n" for line in [*lines, *default_texts("golden")[:10]]), encoding="utf-8"
    )
    return folder


def write(home: Path, model: Path, **values: object) -> Path:
    path = home / "recipe.toml"
    path.write_text(RECIPE.format(model=model, **values), encoding="utf-8")
    return path


def test_the_road_goes_on_where_it_was_cut_off_and_ends_with_a_bundle(model: Model, home: Path) -> None:
    classifier = model("classifier")
    done = edgellm("optimize", str(write(home, classifier, max_mb=0.001, steps=2)))
    assert done.returncode == 5, done.stderr  # the budget is used before the goal is met
    assert "budget" in done.stderr
    assert "Traceback" not in done.stderr
    shown = done.stdout
    assert "1 layer of step 0" in shown
    out = home / "optimized"
    first: dict[str, Any] = json.loads((out / "optimized.json").read_text(encoding="utf-8"))
    assert [step["move"]["kind"] for step in first["steps"]] == ["baseline", "layers"]
    assert first["ended"] == "budget"

    again = edgellm("optimize", str(write(home, classifier, max_mb=0.001, steps=9)), "--json")
    assert again.returncode == 5, again.stderr
    assert "nothing is left to try" in again.stderr
    found: dict[str, Any] = json.loads(again.stdout)
    assert [step["move"]["kind"] for step in found["steps"]] == ["baseline", "layers", "prune"]
    assert found["steps"][1]["model"] == first["steps"][1]["model"]
    assert found["steps"][1]["measured"] == first["steps"][1]["measured"]  # nothing was measured again
    sizes = [step["parameters"] for step in found["steps"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert found["confirmed"] is None  # the test examples stay unread until the goal is met
    assert (out / "optimized.svg").read_text(encoding="utf-8").startswith("<?xml")
    answer: Any = Session.open(out / "bundle")("The boots are red.").value
    assert {item["label"] for item in answer} == {"calm", "glad", "sad"}


def test_a_goal_that_the_baseline_meets_ends_it_at_once(model: Model, home: Path) -> None:
    done = edgellm("optimize", str(write(home, model("classifier"), max_mb=900, steps=9)), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ended"] == "goal"
    assert len(found["steps"]) == 1
    assert found["confirmed"]["n"] == len((home / "test.jsonl").read_text(encoding="utf-8").splitlines())
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("max_mb", "max_megabytes"), 3, "max_megabytes"),
        (("sparsity = 0.3", 'sparsity = "a third"'), 3, "sparsity"),
        (("layers = 1", "layers = 1\nsparsity = 0.2"), 2, "either layers or sparsity"),
        (('structure = "ffn"', 'structure = "2:4"'), 2, "refused"),
        (("linux-x86_64", "linux-x86"), 2, "linux-x86_64"),
        (('"linux-x86_64"\nformat = "onnx"', '"snapdragon-8-gen3"\nformat = "qnn"'), 2, "Optimize for a CPU"),
        (("dev.jsonl", "train.jsonl"), 3, "both hold"),
        (("[data]", 'golden = "dev.txt"\n[data]'), 3, "unknown key 'golden'"),
        (('test = "test.jsonl"', 'golden = "dev.txt"'), 3, "both hold"),
        (('test = "test.jsonl"', 'calibration = "dev.txt"'), 3, "both hold"),
        (("layers = 1", "layers = 99"), 2, "layers is 99"),
        (('target = "', 'pooling = "cls"\ntarget = "'), 2, "pooling"),
        (('target = "', 'out = "."\ntarget = "'), 2, "no optimization wrote"),
        (('target = "', 'seed = -3\ntarget = "'), 2, "seed is -3"),
        (("[16, 32]", "[16, 999]"), 2, "edgellm: seq_len 999 is beyond the model"),
        (("dev.jsonl", "nowhere.jsonl"), 3, "nowhere.jsonl"),
        (("[goal]", "[goal"), 3, "recipe.toml"),
        (("max_drop = 100\nmax_mb = 1", "max_drop = 100"), 2, "max_mb"),
    ],
)
def test_a_recipe_that_can_t_be_is_refused_before_anything_is_made(
    model: Model, home: Path, change: tuple[str, str], code: int, words: str
) -> None:
    path = write(home, model("classifier"), max_mb=1, steps=3)
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")
    done = edgellm("optimize", str(path))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_where_nothing_keeps_the_quality_the_figures_are_shown_all_the_same(model: Model, home: Path) -> None:
    recipe = write(home, model("classifier"), max_mb=900, steps=1)
    text = recipe.read_text(encoding="utf-8").replace("max_drop = 100", "min_score = 0.999\nmax_drop = 100")
    recipe.write_text(text.replace('target = "', 'out = "poor"\ntarget = "'), encoding="utf-8")
    done = edgellm("optimize", str(recipe))
    assert done.returncode == 5, done.stderr
    assert "none of 1 models keeps the quality" in done.stderr
    assert "misses min_score" in done.stdout
    assert not (home / "poor" / "bundle").exists()


def test_what_a_step_can_t_do_is_refused_and_the_road_goes_on(model: Model, home: Path) -> None:
    recipe = write(home, model("classifier"), max_mb=0.001, steps=9)
    text = recipe.read_text(encoding="utf-8").replace("sparsity = 0.3", "sparsity = 0.8")
    text = text.replace('target = "', 'out = "far"\nschemes = ["fp32"]\ntarget = "')
    recipe.write_text(text, encoding="utf-8")
    done = edgellm("optimize", str(recipe), "--json")
    assert done.returncode == 5, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert [step["move"]["sparsity"] for step in found["steps"]][2:] == [
        0.8,
        0.4,
    ]  # all of ffn is less; then half of it
    assert found["steps"][2]["refused"]
    assert found["steps"][2]["measured"] == []
    sizes = [step["measured"][0]["bytes"] for step in found["steps"] if step["measured"]]
    assert sizes == sorted(set(sizes), reverse=True)  # an fp32 artifact of each model, and not the baseline's again
    assert found["chosen"] == [3, "fp32"]


@pytest.mark.parametrize("holds", ["model", "steps"])
def test_a_folder_that_holds_something_else_is_left_alone(model: Model, home: Path, holds: str) -> None:
    recipe = write(home, model("classifier"), max_mb=900, steps=1)
    text = recipe.read_text(encoding="utf-8").replace('target = "', f'out = "my-{holds}"\ntarget = "')
    recipe.write_text(text, encoding="utf-8")
    mine = home / f"my-{holds}" / holds / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    done = edgellm("optimize", str(recipe))
    assert done.returncode == 2
    assert "no optimization wrote" in done.stderr
    assert mine.read_text() == "precious"
