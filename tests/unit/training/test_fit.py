"""Training: what was cut off goes on as if nothing had happened, and what can't succeed says so."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgellm.errors import InputError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from edgellm.core.training import Step, Trained

STEPS = 60
pytestmark = pytest.mark.filterwarnings("default")  # of torch's and tensorboard's own


def run(folder: Path, **options: Any) -> Trained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns when it is imported
        from tests import small_training
    return small_training.run(folder, **options)[0]


def losses(curve: tuple[Step, ...]) -> dict[tuple[int, str], float]:
    return {(step.step, name): value for step in curve for name, value in step.values.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a training that nothing disturbed."""
    return run(tmp_path_factory.mktemp("whole"))


def same(one: Trained, other: Trained) -> None:
    assert losses(one.curve).keys() == losses(other.curve).keys()
    assert losses(one.curve) == pytest.approx(losses(other.curve), abs=1e-5)
    assert (one.steps, one.of_steps, one.best_step) == (other.steps, other.of_steps, other.best_step)
    assert one.best == pytest.approx(other.best, abs=1e-6)


def test_a_training_ends_with_the_best_step_and_without_checkpoints(tmp_path: Path, whole: Trained) -> None:
    assert (whole.status, whole.steps, whole.of_steps) == ("finished", STEPS, STEPS)
    evaluated = {step.step: step.values["eval_loss"] for step in whole.curve if "eval_loss" in step.values}
    assert sorted(evaluated) == [15, 30, 45, 60]
    assert whole.best == evaluated[whole.best_step] == min(evaluated.values())
    assert whole.best < evaluated[15]
    same(whole, run(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_the_module_has_the_weights_of_the_best_step(tmp_path: Path) -> None:
    import torch

    from tests import small_training

    trained, module = small_training.run(tmp_path, rate=0.3, epochs=6)
    with torch.no_grad():
        loss = module.eval()(**small_training.collate(small_training.examples(20, 2)))["loss"]
    assert trained.best_step < trained.steps
    assert float(loss) == pytest.approx(trained.best, abs=1e-4)


@pytest.mark.parametrize("die", [10, 38])
def test_a_killed_training_goes_on_with_the_losses_it_would_have_had(tmp_path: Path, whole: Trained, die: int) -> None:
    command = [sys.executable, "-m", "tests.small_training", str(tmp_path), json.dumps({"die": die})]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("checkpoints/checkpoint-*"))) == die // 15
    same(whole, run(tmp_path))


def test_a_training_whose_folder_was_moved_keeps_its_best_step(tmp_path: Path, whole: Trained) -> None:
    run(tmp_path / "here", keep=True)
    (tmp_path / "here").rename(tmp_path / "there")
    last = tmp_path / "there/checkpoints/checkpoint-60"
    same(whole, run(tmp_path / "there", keep=True))
    assert str(tmp_path / "there") in json.loads((last / "trainer_state.json").read_text())["best_model_checkpoint"]


def test_a_training_that_lost_its_best_step_is_not_gone_on_with(tmp_path: Path) -> None:
    best = run(tmp_path, keep=True).best_step
    state = tmp_path / "checkpoints/checkpoint-60/trainer_state.json"
    if best == STEPS:
        state.write_text(state.read_text().replace("checkpoint-60", "checkpoint-15"))
    else:
        shutil.rmtree(tmp_path / f"checkpoints/checkpoint-{best}")
    with pytest.raises(UsageError, match="whose weights are the best so far"):
        run(tmp_path, keep=True)


@pytest.mark.parametrize("damage", ["no state", "half a state", "no weights and no state"])
def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path, whole: Trained, damage: str) -> None:
    run(tmp_path, keep=True)
    checkpoints = tmp_path / "checkpoints"
    last = checkpoints / "checkpoint-60"
    older = next(path for path in checkpoints.glob("checkpoint-*") if path != last)
    state = last / "trainer_state.json"
    state.write_text(state.read_text()[:400]) if damage == "half a state" else state.unlink()
    if damage.startswith("no weights"):
        (last / "model.safetensors").unlink()
    again = run(tmp_path, keep=True)
    same(whole, again)
    assert older.exists()


def test_a_checkpoint_without_the_curve_s_unfinished_point_is_whole(tmp_path: Path, whole: Trained) -> None:
    run(tmp_path, keep=True)
    (tmp_path / "checkpoints/checkpoint-60/curve.json").unlink()
    same(whole, run(tmp_path))


def test_a_training_that_ended_is_not_run_again(
    tmp_path: Path, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, keep=True)
    monkeypatch.setattr("transformers.Trainer.training_step", lambda *given, **more: pytest.fail("a step was run"))
    same(first, run(tmp_path, keep=True))


@pytest.mark.parametrize("step", [7, 22, 45])
def test_a_paused_training_goes_on_with_the_losses_it_would_have_had(
    tmp_path: Path, whole: Trained, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm.training import running

    now = iter([0.0] + [1.0] * (step - 1) + [1000.0] * 100)
    monkeypatch.setattr(running.time, "monotonic", lambda: next(now))
    paused = run(tmp_path, seconds=500.0)
    assert (paused.status, paused.steps, paused.of_steps) == ("paused", step, STEPS)
    monkeypatch.undo()
    same(whole, run(tmp_path))


def test_products_in_16_bits_learn_as_well(tmp_path: Path, whole: Trained) -> None:
    rough = losses(run(tmp_path, precision="bf16").curve)
    exact = losses(whole.curve)
    assert rough.keys() == exact.keys()
    assert rough != exact
    evaluated = [step for step, name in exact if name == "eval_loss"]
    assert evaluated
    for step in evaluated:
        assert rough[step, "eval_loss"] == pytest.approx(exact[step, "eval_loss"], rel=0.05)


def test_after_a_training_in_16_bits_the_module_answers_in_32(tmp_path: Path) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests import small_training
    _, trained = small_training.run(tmp_path, precision="bf16", epochs=1)
    fresh = small_training.Small(None)
    fresh.load_state_dict(trained.state_dict())
    batch = small_training.collate(small_training.examples(8, 3))
    with torch.no_grad():
        assert torch.equal(trained.eval()(**batch)["logits"], fresh.eval()(**batch)["logits"])


def test_seconds_are_kept(tmp_path: Path) -> None:
    paused = run(tmp_path, seconds=1.0, epochs=1000)
    assert paused.status == "paused"
    assert 0 < paused.steps < paused.of_steps
    assert (tmp_path / "checkpoints" / f"checkpoint-{paused.steps}" / "curve.json").is_file()


@pytest.mark.parametrize(
    "other", [{"rate": 0.01}, {"seed": 1}, {"epochs": 5}, {"precision": "bf16"}, {"identity": "b"}]
)
def test_other_options_or_data_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    run(tmp_path, keep=True, epochs=1)
    with pytest.raises(UsageError, match="other options or data"):
        run(tmp_path, **{"epochs": 1, **other})
    assert run(tmp_path, epochs=1, threads=2).status == "finished"


def test_it_stops_early_and_a_pause_does_not_make_it_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"rate": 0.3, "epochs": 30, "patience": 2}
    whole = run(tmp_path / "whole", **options)
    assert whole.status == "finished"
    assert whole.steps == whole.best_step + 2 * 15 < whole.of_steps
    from edgellm.training import running

    now = iter([0.0] + [1.0] * (whole.best_step + 19) + [1000.0] * 100)
    monkeypatch.setattr(running.time, "monotonic", lambda: next(now))
    assert run(tmp_path / "paused", seconds=500.0, **options).status == "paused"
    monkeypatch.undo()
    same(whole, run(tmp_path / "paused", **options))


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_rate_falls_to_a_tenth_where_the_dev_figure_does_not_get_better(tmp_path: Path, metric: str) -> None:
    trained = run(tmp_path, rate=0.2, epochs=12, schedule="plateau", metric=metric)
    seen = losses(trained.curve)
    better = min if metric == "loss" else max
    best, waited, rate = seen[15, f"eval_{metric}"], 0, 0.2
    for step in range(30, 12 * 15 + 1, 15):
        assert seen[step, "learning_rate"] == pytest.approx(rate)
        figure = seen[step, f"eval_{metric}"]
        # torch takes less than 1e-4 of a change for none
        changed = better(figure, best) == figure and abs(figure - best) > 1e-4 * abs(best)
        best, waited = (figure, 0) if changed else (best, waited + 1)
        if waited == 2:
            rate, waited = rate / 10, 0
    assert rate < 0.2


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_training_that_diverges_stops_and_can_be_begun_anew(tmp_path: Path, scale: float) -> None:
    with pytest.raises(InputError, match="diverged"):
        run(tmp_path, scale=scale)
    assert run(tmp_path, epochs=1, rate=0.001).status == "finished"


def test_what_it_was_measured_by_chooses_the_step(tmp_path: Path) -> None:
    trained = run(tmp_path, metric="accuracy", epochs=6)
    seen = {step.step: step.values["eval_accuracy"] for step in trained.curve if "eval_accuracy" in step.values}
    assert trained.metric == "accuracy"
    assert trained.best == seen[trained.best_step] == max(seen.values())
    assert all(0 <= value <= 1 for value in seen.values())


def test_deepspeed_needs_its_library_and_its_file(tmp_path: Path) -> None:
    with pytest.raises((MissingDependencyError, InputError), match=r"(?i)deepspeed"):
        run(tmp_path, deepspeed=str(tmp_path / "none.json"))
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_of_another_name_are_left_alone(tmp_path: Path) -> None:
    run(tmp_path, keep=True, epochs=1)
    shutil.copytree(tmp_path / "checkpoints/checkpoint-15", tmp_path / "checkpoints/checkpoint-mine")
    assert run(tmp_path, keep=True, epochs=1).status == "finished"
    assert (tmp_path / "checkpoints/checkpoint-mine").is_dir()
