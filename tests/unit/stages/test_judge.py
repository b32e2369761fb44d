"""Judging delegations: what may stay outside a delegate, and what an NPU has to take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, Fallback
from edgellm.core.manifest import Artifact
from edgellm.errors import GateError
from edgellm.stages.judge import judge_delegation
from tests.tiny import tiny_bundle

Make = Callable[..., Artifact]
LOOKUP = Fallback("Gather", 1, "it looks rows up", 0.0)
NORM = Fallback("LayerNormalization", 2, "its scale is signed", 0.0)
MATMUL = Fallback("MatMul", 1, "its weights have 5 bits", 25.0)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Make:
    plain = tiny_bundle(Path(tmp_path_factory.mktemp("judge")) / "bundle").manifest.artifacts[0]

    def make(delegate: str, *fallbacks: Fallback) -> Artifact:
        outside, cost = sum(each.count for each in fallbacks), sum(each.cost for each in fallbacks)
        found = Delegation(delegate, 1, 10, outside, 75.0, cost, MULTIPLY_ACCUMULATES, fallbacks)
        return dataclasses.replace(plain, delegate=delegate, delegation=found)

    return make


@pytest.mark.parametrize("delegate", ["htp", "coreml", "vulkan", "ethos-u"])
def test_an_npu_takes_what_multiplies_matrices(artifact: Make, delegate: str) -> None:
    judge_delegation([artifact(delegate, LOOKUP)], None)
    with pytest.raises(GateError) as caught:
        judge_delegation([artifact(delegate, MATMUL, LOOKUP)], None)
    assert "2 of 12 operators and 25.0% of the multiply-accumulates stay outside" in str(caught.value)
    assert "1 MatMul (its weights have 5 bits)" in str(caught.value)
    assert "Gather" not in str(caught.value)


def test_layer_normalization_outside_the_htp_would_split_the_encoder(artifact: Make) -> None:
    with pytest.raises(GateError, match=r"2 LayerNormalization \(its scale is signed\)"):
        judge_delegation([artifact("htp", NORM, LOOKUP)], None)
    judge_delegation([artifact("coreml", NORM, LOOKUP)], None)


def test_a_cpu_s_delegate_is_asked_for_nothing_unless_the_user_does(artifact: Make) -> None:
    judge_delegation([artifact("xnnpack", MATMUL, LOOKUP)], None)
    judge_delegation([artifact("xnnpack", MATMUL, LOOKUP)], 0.25)
    with pytest.raises(GateError, match=r"1 MatMul .*; 1 Gather"):
        judge_delegation([artifact("xnnpack", MATMUL, LOOKUP)], 0.2)


def test_a_share_that_the_user_allows_is_allowed_on_an_npu_too(artifact: Make) -> None:
    judge_delegation([artifact("htp", MATMUL, NORM, LOOKUP)], 0.3)


def test_what_is_decided_when_it_loads_is_not_judged(artifact: Make) -> None:
    judge_delegation([dataclasses.replace(artifact("coreml"), delegation=None)], 0.0)


def test_where_costs_are_not_known_the_share_is_of_operators(artifact: Make) -> None:
    unknown = Delegation("htp", None, 9, 1, 0.0, 0.0, MULTIPLY_ACCUMULATES, (dataclasses.replace(MATMUL, cost=0.0),))
    found = [dataclasses.replace(artifact("htp"), delegation=unknown)]
    judge_delegation(found, 0.1)
    for most in (None, 0.05):
        with pytest.raises(GateError, match=r": 1 of 10 operators stay outside htp: 1 MatMul"):
            judge_delegation(found, most)
