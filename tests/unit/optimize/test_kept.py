"""What an optimization keeps is named after what it was made of: the same is found again, and another is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgellm.core.evaluation import Drop
from edgellm.core.optimize import Measured, Move
from edgellm.optimize import kept
from edgellm.optimize.kept import Kept
from edgellm.targets import load_target

TARGET = load_target("linux-x86_64")
PRUNED = Move("prune", 0, 0, sparsity=0.4, structure="heads,ffn", epochs=2, rate=1e-4)


@pytest.fixture(autouse=True)
def plain_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "identity", lambda source: source)


def setup(out: Path, **changed: Any) -> Any:
    plan = {
        "target": TARGET,
        "buckets": (16,),
        "golden": ("a",),
        "calibration": (),
        "min_agreement": 0.99,
        "min_exact": None,
        "max_tokens": 16,
    }
    facts = {
        "source": "weights", "train": ("rows",), "dev": SimpleNamespace(digest="dev"), "format": "onnx", "out": out,
        "recipe": SimpleNamespace(seed=0, precision="fp32", teacher=None), "meter": None,
        "plans": {"int8-dynamic": SimpleNamespace(**plan)},
    }  # fmt: skip
    facts |= changed
    facts["plan"] = SimpleNamespace(**{**plan, **changed.get("plan", {})})
    return SimpleNamespace(**facts)


def names(made: Kept, begins: Path | None = None) -> list[str]:
    baseline = made.step(Move("baseline"), None)
    return [baseline.name, made.step(PRUNED, baseline / "model").name]


def test_the_same_recipe_finds_the_same_folders(tmp_path: Path) -> None:
    assert names(Kept(setup(tmp_path))) == names(Kept(setup(tmp_path)))


@pytest.mark.parametrize(
    "changed",
    [
        {"source": "other weights"}, {"train": ("other rows",)}, {"dev": SimpleNamespace(digest="other")},
        {"recipe": SimpleNamespace(seed=1, precision="fp32", teacher=None)},
        {"recipe": SimpleNamespace(seed=0, precision="bf16", teacher=None)}, {"plan": {"max_tokens": 32}},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_other_weights_data_seeds_and_lengths_are_another_training(changed: dict[str, Any], tmp_path: Path) -> None:
    assert set(names(Kept(setup(tmp_path)))).isdisjoint(names(Kept(setup(tmp_path, **changed))))


def test_a_teacher_is_known_by_its_files(tmp_path: Path) -> None:
    folder, found = tmp_path / "teacher", []
    folder.mkdir()
    for content in ("one", "another"):
        (folder / "model.safetensors").write_text(content)
        recipe = SimpleNamespace(seed=0, precision="fp32", teacher=str(folder))
        found.append(names(Kept(setup(tmp_path, recipe=recipe))))
    assert set(found[0]).isdisjoint(found[1])


def test_a_step_is_named_after_every_move_that_led_to_it_and_not_after_its_number(tmp_path: Path) -> None:
    made = Kept(setup(tmp_path))
    baseline = made.step(Move("baseline"), None) / "model"
    once = made.step(PRUNED, baseline)
    assert made.step(replace(PRUNED, begins=3, rung=2), baseline) == once, "the same model of the same model"
    assert made.step(replace(PRUNED, sparsity=0.2), baseline) != once
    assert made.step(PRUNED, once / "model") != once, "pruned twice"


def test_figures_are_those_of_this_gate_these_questions_and_a_bundle_that_is_there(tmp_path: Path) -> None:
    made = Kept(setup(tmp_path))
    step = made.step(Move("baseline"), None)
    figures = Measured("int8-dynamic", 0.9, Drop(0.1, 0.0, 0.2), 1000, None)
    made.keep(step, figures)
    assert made.measured(step, "int8-dynamic") is None, "its bundle is gone"
    made.bundle(step, "int8-dynamic").mkdir()
    found = made.measured(step, "int8-dynamic")
    assert found == replace(figures, bundle=str(made.bundle(step, "int8-dynamic")))
    stricter = {
        "int8-dynamic": SimpleNamespace(**{**vars(setup(tmp_path).plans["int8-dynamic"]), "min_agreement": 0.999})
    }
    assert Kept(setup(tmp_path, plans=stricter)).measured(step, "int8-dynamic") is None
    timed = SimpleNamespace(kind="latency")
    assert Kept(setup(tmp_path, meter=timed)).measured(step, "int8-dynamic") is None


def test_what_was_refused_needs_no_bundle(tmp_path: Path) -> None:
    made = Kept(setup(tmp_path))
    step = made.step(Move("baseline"), None)
    refused = Measured("int8-dynamic", None, None, None, None, refused="the gate failed")
    made.keep(step, refused)
    assert made.measured(step, "int8-dynamic") == refused


def test_the_time_of_a_step_adds_up_over_runs_that_end_and_runs_that_fail(tmp_path: Path) -> None:
    step = Kept(setup(tmp_path)).step(Move("baseline"), None)
    kept.write(step / "seconds.json", 5.0)
    made = Kept(setup(tmp_path))
    with pytest.raises(ValueError, match="cut off"), made.timed(step):
        raise ValueError("cut off")
    assert made.seconds(step) >= 5.0
    assert made.seconds(made.step(PRUNED, step / "model")) == 0.0
