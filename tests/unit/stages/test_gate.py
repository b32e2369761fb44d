"""The gate: whether the target's oldest runtime reads the file at all, and what an evaluation leaves in a bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgellm.core import strict
from edgellm.core.evaluation import Evaluation
from edgellm.core.target import OnnxLevel
from edgellm.device.host import Host
from edgellm.errors import GateError
from edgellm.runtime import Bundle
from edgellm.stages import gate, verify
from edgellm.stages.cache import Cache
from edgellm.stages.produce import LABELLED
from edgellm.targets import load_target
from edgellm.tasks import Example


def ensure_fit(bundle: Bundle, target: Any, store: Cache) -> None:
    gate._ensure_fit(SimpleNamespace(target=target), bundle.manifest, store, bundle.path)  # type: ignore[arg-type]


def test_an_artifact_that_the_target_can_t_read_is_refused_before_it_runs(
    embedder: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Cache(tmp_path / "cache")
    target = load_target("raspberry-pi-4")
    ensure_fit(embedder, target, store)
    old = dataclasses.replace(target, onnx=OnnxLevel(8, 18))
    for _ in range(2):  # the second time from the cache, without looking
        with pytest.raises(GateError, match=r"model.*\.onnx does not fit raspberry-pi-4: .*IR version"):
            ensure_fit(embedder, old, store)
        monkeypatch.setattr(gate, "examine_artifact", lambda *rest: pytest.fail("looked again"))
    ensure_fit(embedder, target, store)


def test_an_evaluation_counts_flips_and_a_bundle_carries_no_text_of_the_user_s(
    classifier: Bundle, tmp_path: Path
) -> None:
    texts = [f"the kettle and the river {'and the road ' * i}" for i in (0, 1, 2, 20)]
    options = classifier.manifest.task_options
    artifact = classifier.manifest.artifacts[0]
    ran: Any = verify.run_inputs(classifier, artifact, texts, Host()).values
    with (tmp_path / LABELLED).open("w") as lines:
        for i, value in enumerate(ran):  # the source decides otherwise on the first
            lines.write(json.dumps(value[::-1] if i == 0 else value) + "\n")
    plan = SimpleNamespace(
        source=SimpleNamespace(task=classifier.manifest.task, options=options),
        labelled=[Example((text,), value[0]["label"]) for text, value in zip(texts, ran, strict=True)],
    )
    measured = gate._measure(plan, classifier, tmp_path)  # type: ignore[arg-type]
    evaluation = strict.read(Evaluation, measured["evaluation"][artifact.id], "x")
    assert (evaluation.metric, evaluation.source, evaluation.value) == ("accuracy", 0.75, 1.0)
    assert (evaluation.flipped, evaluation.flips, evaluation.mcnemar_p) == (1, (), 1.0)
    assert evaluation.drop.points == -25
    assert measured["truncated"] == sum(len(text.split()) > 30 for text in texts)
    assert not [text for text in texts if text in json.dumps(measured["evaluation"])]
