"""The study of a search: its trials in Optuna's storage, which outlives a process and may be shared by several.

A trial is never lost and never counted twice. A process says in the trial that it runs which process it is, and every half
minute that it still does. A trial whose process is gone goes back to those that wait, with its number and what was chosen
for it, and is run again. What the sampler chooses for a trial depends on the seed, the trial's number and the trials that
came to their end before it, so that one process gets the same trials whether or not it was interrupted.

Importing this needs the `search` extra.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from edgellm.core import strict
from edgellm.core.evaluation import Drop
from edgellm.core.search import Bounds, Failure, Group, Point
from edgellm.errors import DeviceError, EdgellmError, UsageError, first_line
from edgellm.stages.cache import alive
from edgellm.stages.search_sampler import EXCESS, Steady

BEAT_S = 30.0
"""Seconds between two signs of life of a running trial."""

GRACE_S = 300.0
"""Seconds without one after which a process on another machine is taken to be gone."""

_IDENTITY, _GROUPS = "edgellm", "groups"
_WORKER, _SEEN, _ORIGIN, _OUTCOME, _ERROR = "worker", "seen", "origin", "outcome", "error"


@dataclass(frozen=True)
class Outcome:
    """What a trial measured; see `core.search.Point`."""

    drop: Drop
    bytes: int
    cost: float | None
    golden: float


Evaluate = Callable[[Mapping[str, str]], Outcome]
"""Takes the scheme of each group."""

Told = Callable[[Point | Failure, float], None]
"""Called when a trial came to its end, with the seconds that it took."""


def open_study(url: str, name: str, *, resume: bool) -> optuna.Study | None:
    """Return the study of that name, or None where a new one is to be made.

    Raises:
        UsageError: there is one and it is not to be resumed, or there is none to resume; or the storage can't be opened.

    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _storage(url)
    exists = name in optuna.get_all_study_names(storage)
    if exists and not resume:
        raise UsageError(
            f"There is a study '{name}' in {_shown(url)} already.",
            hint="--resume goes on with it; --out starts another in a folder of its own.",
        )
    if resume and not exists:
        raise UsageError(f"There is no study '{name}' in {_shown(url)} to resume.", hint="Leave --resume out.")
    return optuna.load_study(study_name=name, storage=storage) if exists else None


def create_study(url: str, name: str) -> optuna.Study:
    """Return a new study with two objectives, points lost and cost, that `describe` has to complete."""
    try:
        return optuna.create_study(study_name=name, storage=_storage(url), directions=["minimize", "minimize"])
    except optuna.exceptions.DuplicatedStudyError:
        raise UsageError(
            f"Another process has just begun the study '{name}' in {_shown(url)}.", hint="Join it with --resume."
        ) from None


def describe(
    study: optuna.Study,
    identity: Mapping[str, object],
    groups: Sequence[Group],
    seeds: Sequence[tuple[str, dict[str, str]]],
) -> None:
    """Say what a new study is of, and queue its first trials. May be repeated; the identity comes last."""
    study.set_user_attr(_GROUPS, strict.plain(tuple(groups)))
    for origin, schemes in seeds:
        study.enqueue_trial(schemes, user_attrs={_ORIGIN: origin}, skip_if_exists=True)
    study.set_user_attr(_IDENTITY, dict(identity))


def described(study: optuna.Study, identity: Mapping[str, object]) -> tuple[Group, ...] | None:
    """Return the groups of a study, or None where whoever made it was killed before it said what it is of.

    Raises:
        UsageError: it is of something else.

    """
    found = study.user_attrs.get(_IDENTITY)
    if found is None:
        return None
    asked = json.loads(json.dumps(identity))
    others = [key for key in sorted({*found, *asked}) if found.get(key) != asked.get(key)]
    if others:
        shown = [f"{key} {_brief(found.get(key))} and not {_brief(asked.get(key))}" for key in others]
        raise UsageError(
            f"The study '{study.study_name}' is of something else: {'; '.join(shown)}.",
            hint="Give the options that it was begun with, or begin another with --out.",
        )
    return tuple(strict.read(Group, each, "study: groups") for each in study.user_attrs[_GROUPS])


def run(
    study: optuna.Study, url: str, groups: Sequence[Group], evaluate: Evaluate, *, trials: int, seed: int, bounds: Bounds,
    minimize: str, told: Told = lambda point, seconds: None,
) -> None:  # fmt: skip
    """Run trials until the study has begun `trials` of them, or has tried everything there is.

    Args:
        study: described.
        url: of its storage.
        groups: its search space.
        evaluate: measures one point.
        trials: in all, those of other processes and of earlier runs included.
        seed: of the sampler.
        bounds: the constraints.
        minimize: a key of `core.search.MINIMIZED`.
        told: of each trial.

    Raises:
        EdgellmError: the first trial of all failed, so that nothing can be compared; or the machine did.

    """
    space = {group.name: CategoricalDistribution(group.choices) for group in groups}
    study.sampler = Steady(space, seed)
    while (taken := _take(study, url, space, trials)) is not None:
        trial, schemes = taken
        with _signs_of_life(trial):
            _try(study, trial, schemes, evaluate, bounds, minimize, told)


def _take(
    study: optuna.Study, url: str, space: Mapping[str, CategoricalDistribution], trials: int
) -> tuple[optuna.Trial, dict[str, str]] | None:
    """Return a trial that this process alone runs, with what is chosen for it; None where there is nothing left to do."""
    size = math.prod(len(each.choices) for each in space.values())
    with turn(url):
        recover(study)
        begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        tried = {tuple(sorted(trial.params.items())) for trial in begun if len(trial.params) == len(space)}
        if len(begun) >= trials or len(tried) >= size:
            return None
        trial = study.ask()
        trial.set_user_attr(_WORKER, [socket.gethostname(), os.getpid()])
        if trial.number >= trials:  # on a server another process may have begun one at the same moment
            _put_back(study, trial._trial_id)
            return None
        return trial, {name: trial.suggest_categorical(name, each.choices) for name, each in space.items()}


@contextmanager
def turn(url: str) -> Iterator[None]:
    """Hold a storage against other processes, where it is a file.

    SQLite has no row locks: two processes would take the same trial from the queue. Servers have them, and Optuna uses them.
    """
    path = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else ""
    if not path:
        yield
        return
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


def recover(study: optuna.Study) -> list[int]:
    """Put trials whose process is gone back to those that wait, and return their numbers."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _gone(trial):
            _put_back(study, trial._trial_id)
            found.append(trial.number)
    return found


def points_of(study: optuna.Study, bounds: Bounds) -> tuple[tuple[Point, ...], tuple[Failure, ...]]:
    """Return the trials that came to their end, by number, and those that failed."""
    trials = study.get_trials(deepcopy=False)
    points = tuple(_point(trial, bounds) for trial in trials if trial.state == TrialState.COMPLETE)
    failures = tuple(Failure(t.number, str(t.user_attrs.get(_ERROR, ""))) for t in trials if t.state == TrialState.FAIL)
    return points, failures


def _try(
    study: optuna.Study, trial: optuna.Trial, schemes: Mapping[str, str], evaluate: Evaluate, bounds: Bounds,
    minimize: str, told: Told,
) -> None:  # fmt: skip
    start = time.perf_counter()
    try:
        outcome = evaluate(schemes)
    except EdgellmError as error:
        if trial.number == 0 or isinstance(error, DeviceError):
            _put_back(study, trial._trial_id)  # nothing is known of the point
            raise
        message = first_line(error)
        trial.set_user_attr(_ERROR, message)
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        told(Failure(trial.number, message), time.perf_counter() - start)
        return
    except OSError:
        _put_back(study, trial._trial_id)
        raise
    trial.set_user_attr(_OUTCOME, strict.plain(outcome))
    trial.set_user_attr(EXCESS, bounds.excess(outcome.drop.points, outcome.bytes, outcome.cost))
    objective = outcome.bytes if minimize == "size" else outcome.cost
    assert objective is not None
    told_of = study.tell(trial, [outcome.drop.points, float(objective)], skip_if_finished=True)
    told(_point(told_of, bounds), time.perf_counter() - start)


def _point(trial: FrozenTrial, bounds: Bounds) -> Point:
    outcome = strict.read(Outcome, trial.user_attrs[_OUTCOME], f"trial {trial.number}")
    excess = bounds.excess(outcome.drop.points, outcome.bytes, outcome.cost)
    broken = {name: by for name, by in excess.items() if by > 0}
    return Point(
        trial.number, str(trial.user_attrs.get(_ORIGIN, "")), dict(trial.params), outcome.drop, outcome.bytes,
        outcome.cost, outcome.golden, broken,
    )  # fmt: skip


@contextmanager
def _signs_of_life(trial: optuna.Trial) -> Iterator[None]:
    """Say in a trial, time and again, that it is still run."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            try:
                trial.set_user_attr(_SEEN, time.time())
            except Exception as error:  # the storage is away for a moment, or the trial was ended elsewhere
                print(f"edgellm: no sign of life was kept: {first_line(error)}", flush=True)
            if ended.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _gone(trial: FrozenTrial) -> bool:
    host, process = trial.user_attrs.get(_WORKER) or (None, None)
    if host == socket.gethostname() and not alive(str(process)):
        return True
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - max(begun, float(trial.user_attrs.get(_SEEN, 0.0))) > GRACE_S


def _put_back(study: optuna.Study, trial_id: int) -> None:
    try:
        study._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
    except optuna.exceptions.UpdateFinishedTrialError:
        return  # it came to its end in the meantime


def _storage(url: str) -> optuna.storages.BaseStorage:
    # A second process that writes to the file waits for the first.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else None
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # SQLAlchemy, its drivers and the servers raise anything
        raise UsageError(
            f"The storage {_shown(url)} can't be opened: {first_line(error)}.",
            hint="It is a URL of SQLAlchemy's: sqlite:///study.db, postgresql://user:password@host/name, mysql+pymysql://...",
        ) from None


def _shown(url: str) -> str:
    """Return a URL without the password in it."""
    scheme, between, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}{between}{login.partition(':')[0]}{at}{place}"


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
