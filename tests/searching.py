"""A search without engines: groups whose schemes cost points and bytes by a formula, in a process that can be killed.

python -m tests.searching URL TRIALS [--kill NUMBER] [--sleep SECONDS]
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Mapping

from edgellm.core.evaluation import Drop
from edgellm.core.search import Bounds, Group
from edgellm.errors import GateError
from edgellm.stages import search_space, search_study
from edgellm.stages.search_study import Evaluate, Outcome

SCHEMES = ("int4-dynamic", "int4-weight-only", "int8-dynamic", "int8-weight-only")
BOUNDS = Bounds(max_drop=0.6, max_size=20_000)
GROUPS = tuple(
    Group(
        f"group {i}", (f"layer.{i}",), 1000 * (i + 1), 0.01 * 2**i, SCHEMES if i else ("int4-dynamic", "int8-dynamic")
    )
    for i in range(6)
)
IDENTITY = {"model": "m", "target": "t", "trials of": "nothing real"}
_POINTS = {"int4-dynamic": 6.0, "int4-weight-only": 4.0, "int8-dynamic": 0.6, "int8-weight-only": 0.1}


def outcome(schemes: Mapping[str, str]) -> Outcome:
    """Return points and bytes by a formula; a mixture of all the same weights in 4 bits and fp32 sums can't be lowered."""
    if all(scheme == "int4-weight-only" for name, scheme in schemes.items() if name != "group 0"):
        raise GateError("this mixture can't be lowered")
    lost = sum((group.noise or 0) * _POINTS[schemes[group.name]] for group in GROUPS)
    size = sum(group.weights * (1 if "int8" in schemes[group.name] else 0.55) for group in GROUPS)
    return Outcome(Drop(lost, lost - 0.1, lost + 0.1), round(size), None, 1.0)


def begun(url: str, *, resume: bool = False) -> search_study.optuna.Study:
    """Return the study, described."""
    study = search_study.open_study(url, "test", resume=resume)
    if study is None or search_study.described(study, IDENTITY) is None:
        study = study or search_study.create_study(url, "test")
        search_study.describe(study, IDENTITY, GROUPS, search_space.seeds(GROUPS, SCHEMES, "int8-dynamic"))
    return study


def run(study: search_study.optuna.Study, url: str, trials: int, evaluate: Evaluate = outcome) -> None:
    """Run trials."""
    search_study.run(study, url, GROUPS, evaluate, trials=trials, seed=3, bounds=BOUNDS, minimize="size")


def main() -> None:
    """Run trials of a study, and die in one of them if that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("trials", type=int)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--sleep", type=float, default=0.0)
    given = parser.parse_args()
    study = begun(given.url, resume=True)

    def evaluate(schemes: Mapping[str, str]) -> Outcome:
        time.sleep(given.sleep)
        running = [t.number for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        if given.kill in running:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome(schemes)

    run(study, given.url, given.trials, evaluate)


if __name__ == "__main__":
    main()
