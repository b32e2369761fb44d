"""A study loses no trial and counts none twice, whoever is killed and however many share it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from edgellm.core.search import Bounds, Failure, Point
from edgellm.errors import DeviceError, GateError, UsageError
from edgellm.stages import search_space, search_study
from edgellm.stages.search_study import Outcome
from tests.searching import BOUNDS, GROUPS, IDENTITY, begun, outcome, run

ROOT = Path(__file__).parents[3]
TRIALS = 14
Trials = list[tuple[int, str, dict[str, object], list[float] | None]]


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def started(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.searching", url(folder), str(TRIALS), *options], cwd=ROOT)


def trials_of(study: optuna.Study) -> Trials:
    return [(t.number, t.state.name, dict(t.params), t.values) for t in study.get_trials() if t.state.is_finished()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    place = url(tmp_path_factory.mktemp("whole"))
    study = begun(place)
    run(study, place, TRIALS)
    return trials_of(study)


@pytest.mark.parametrize("number", [2, 11])
def test_a_study_killed_in_mid_trial_and_resumed_is_that_of_an_uninterrupted_run(
    number: int, uninterrupted: Trials, tmp_path: Path
) -> None:
    begun(url(tmp_path))
    killed = started(tmp_path, "--kill", str(number))
    assert killed.wait(120) == -9
    study = begun(url(tmp_path), resume=True)
    states = [trial.state for trial in study.get_trials()]
    assert states[number] == TrialState.RUNNING, "that is what a kill leaves"
    assert len(trials_of(study)) == number
    run(study, url(tmp_path), TRIALS)
    assert trials_of(study) == uninterrupted
    assert [number for number, *_ in uninterrupted] == list(range(TRIALS))
    run(study, url(tmp_path), TRIALS)
    assert trials_of(study) == uninterrupted, "there is nothing left to do"


def test_a_study_that_goes_on_in_pieces_is_the_same(uninterrupted: Trials, tmp_path: Path) -> None:
    run(begun(url(tmp_path)), url(tmp_path), 4)
    for trials in (10, TRIALS):
        run(begun(url(tmp_path), resume=True), url(tmp_path), trials)
    assert trials_of(begun(url(tmp_path), resume=True)) == uninterrupted


def test_a_study_killed_while_it_was_described_is_described_again(tmp_path: Path) -> None:
    study = search_study.create_study(url(tmp_path), "test")
    study.enqueue_trial(
        search_space.seeds(GROUPS, GROUPS[1].choices, "int8-dynamic")[0][1], user_attrs={"origin": "all int8-dynamic"}
    )
    assert search_study.described(study, IDENTITY) is None
    run(begun(url(tmp_path), resume=True), url(tmp_path), 3)
    points, failures = search_study.points_of(begun(url(tmp_path), resume=True), BOUNDS)
    assert [point.origin for point in points] == ["all int8-dynamic", "all int4-dynamic"]
    assert [failure.number for failure in failures] == [2], "the next seed, which can't be lowered"
    assert len({tuple(point.schemes.items()) for point in points}) == len(points)


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    begun(url(tmp_path))
    both = [started(tmp_path, "--sleep", "0.2") for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    study = begun(url(tmp_path), resume=True)
    done = trials_of(study)
    assert [number for number, *_ in done] == list(range(TRIALS))
    assert len({tuple(params.items()) for _, _, params, _ in done}) == TRIALS, "nothing is tried twice"
    assert len({tuple(trial.user_attrs["worker"]) for trial in study.get_trials() if "worker" in trial.user_attrs}) == 2


def test_what_bounds_are_broken_is_what_the_sampler_reads(tmp_path: Path) -> None:
    study = begun(url(tmp_path))
    run(study, url(tmp_path), TRIALS)
    points, failures = search_study.points_of(study, BOUNDS)
    assert len(points) + len(failures) == TRIALS
    for point in points:
        constraints = study.get_trials()[point.number].system_attrs["constraints"]
        assert list(constraints) == list(BOUNDS.excess(point.drop.points, point.bytes, None).values())
        assert point.feasible == all(value <= 0 for value in constraints)
    chosen = search_space.chosen_of(points, "size")
    assert chosen is not None
    assert chosen.drop.points <= BOUNDS.max_drop
    assert chosen.bytes < points[0].bytes
    assert chosen.number in {trial.number for trial in study.best_trials}, "Optuna's own front has it"
    assert chosen.number in search_space.front_of(points, "size")


def test_a_mixture_that_fails_is_a_failed_trial_and_is_not_tried_again(tmp_path: Path) -> None:
    told: list[Point | Failure] = []
    study = begun(url(tmp_path))
    search_study.run(
        study,
        url(tmp_path),
        GROUPS,
        outcome,
        trials=TRIALS,
        seed=3,
        bounds=BOUNDS,
        minimize="size",
        told=lambda t, s: told.append(t),
    )
    failed = [each for each in told if isinstance(each, Failure)]
    assert failed[0].error == "this mixture can't be lowered"
    assert search_study.points_of(study, BOUNDS)[1] == tuple(failed)
    assert search_study.recover(study) == []


@pytest.mark.parametrize("error", [DeviceError("a worker died"), OSError(28, "No space left on device")])
def test_a_machine_that_fails_ends_the_run_and_leaves_the_trial_for_later(error: Exception, tmp_path: Path) -> None:
    study = begun(url(tmp_path))

    def fails(schemes: Mapping[str, str]) -> Outcome:
        if len(trials_of(study)) == 2:
            raise error
        return outcome(schemes)

    with pytest.raises(type(error)):
        run(study, url(tmp_path), TRIALS, fails)
    assert study.get_trials()[2].state == TrialState.WAITING
    run(study, url(tmp_path), 3)
    assert len(trials_of(study)) == 3


def test_uniform_int8_that_fails_ends_the_run(tmp_path: Path) -> None:
    def fails(schemes: Mapping[str, str]) -> Outcome:
        raise GateError("nothing can be lowered")

    with pytest.raises(GateError, match="nothing can be lowered"):
        run(begun(url(tmp_path)), url(tmp_path), TRIALS, fails)


def test_another_machines_trial_is_left_alone_until_it_gives_no_sign_of_life(tmp_path: Path) -> None:
    study = begun(url(tmp_path))
    trial = study.ask()
    trial.set_user_attr("worker", ["another-machine", 1])
    trial.set_user_attr("seen", time.time())
    assert search_study.recover(study) == []
    trial.set_user_attr("seen", time.time() - search_study.GRACE_S - 1)
    assert search_study.recover(study) == [], "it has only just begun"
    search_study.GRACE_S, kept = -1.0, search_study.GRACE_S
    try:
        assert search_study.recover(study) == [0]
    finally:
        search_study.GRACE_S = kept


def test_a_small_space_is_tried_once_and_that_is_all(tmp_path: Path) -> None:
    group = GROUPS[:1]
    study = search_study.create_study(url(tmp_path), "test")
    search_study.describe(study, IDENTITY, group, search_space.seeds(group, group[0].choices, "int8-dynamic"))

    def evaluate(schemes: Mapping[str, str]) -> Outcome:
        return outcome({**dict.fromkeys((g.name for g in GROUPS), "int8-dynamic"), **schemes})

    search_study.run(study, url(tmp_path), group, evaluate, trials=50, seed=0, bounds=Bounds(1), minimize="size")
    assert len(trials_of(study)) == 2


def test_what_cant_be_opened_or_resumed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no study 'test' in sqlite:///.*study.db to resume"):
        search_study.open_study(url(tmp_path), "test", resume=True)
    study = begun(url(tmp_path))
    with pytest.raises(UsageError, match=r"There is a study 'test' in .* already. --resume goes on with it"):
        search_study.open_study(url(tmp_path), "test", resume=False)
    with pytest.raises(UsageError, match="is of something else: model m and not another; target t and not null"):
        search_study.described(study, {"model": "another", "trials of": "nothing real"})
    with pytest.raises(UsageError, match="Join it with --resume"):
        search_study.create_study(url(tmp_path), "test")
    for bad in (
        "nonsense",
        "nosuch://x",
        f"sqlite:///{tmp_path}/no/such/folder.db",
        "postgresql://me:secret@nowhere.invalid/x",
    ):
        with pytest.raises(UsageError, match="can't be opened") as caught:
            search_study.open_study(bad, "test", resume=False)
        assert "secret" not in str(caught.value)
