"""The sampler of a search: a tree-structured Parzen estimator that gives the same trials whether or not it was interrupted.

Importing this needs the `search` extra.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

EXCESS = "excess"
"""Attribute of a trial: by how much it breaks each bound."""

_STARTUP = 5
"""Trials that came to their end before the estimator has anything to go by."""

_ATTEMPTS = 16
"""Draws at most until one is no repetition of an earlier trial."""


class Steady(optuna.samplers.BaseSampler):
    """Optuna's tree-structured Parzen estimator for several objectives, seeded anew for each trial by its number.

    NSGA-II breeds from generations of fifty, more than a search of artifacts has trials.
    """

    def __init__(self, space: Mapping[str, CategoricalDistribution], seed: int) -> None:
        self._space, self._seed = space, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: groups are chosen together."""
        return dict(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a scheme for each group that no other trial has, if one is found."""
        if "fixed_params" in trial.system_attrs:
            return {}
        others = [t.params for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        chosen: dict[str, Any] = {}
        for attempt in range(_ATTEMPTS):
            chosen = self._draw(study, trial, search_space, attempt)
            if chosen not in others:
                break
        return chosen

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a scheme for one group: what a seed leaves open."""
        return self._random(trial, 0, {param_name: param_distribution})[param_name]

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Keep by how much the bounds are broken, which is what the estimator reads as constraints."""
        _tpe(0).after_trial(study, trial, state, values)

    def _draw(
        self, study: optuna.Study, trial: FrozenTrial, space: dict[str, BaseDistribution], attempt: int
    ) -> dict[str, Any]:
        rng = np.random.default_rng([self._seed, trial.number, attempt])
        found = _tpe(int(rng.integers(2**31))).sample_relative(study, trial, space)
        return found or self._random(trial, attempt, space)

    def _random(self, trial: FrozenTrial, attempt: int, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        rng = np.random.default_rng([self._seed, trial.number, attempt, len(space)])
        return {
            name: each.choices[int(rng.integers(len(each.choices)))]
            for name, each in space.items()
            if isinstance(each, CategoricalDistribution)
        }


def _tpe(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=_STARTUP, constraints_func=_constraints
        )


def _constraints(trial: FrozenTrial) -> tuple[float, ...]:
    """Return by how much each bound is broken; a trial that failed has measured nothing, and breaks one."""
    return tuple(trial.user_attrs.get(EXCESS, {"failed": 1.0}).values())
