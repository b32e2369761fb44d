"""What is timed: the input of a task at a length, and the lengths that it fills."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgellm.benchmark import Text, bench, lengths_of
from edgellm.cli.render import benched
from edgellm.device.host import Host
from edgellm.errors import UsageError
from edgellm.runtime import Bundle
from tests.tiny import edit_manifest, tiny_bundle


@pytest.fixture
def zero_shot(tmp_path: Path) -> Bundle:
    bundle = tiny_bundle(tmp_path / "bundle", "text-classification", max_tokens=40)

    def change(manifest: dict[str, Any]) -> None:
        manifest["task"] = "zero-shot-classification"
        manifest["task_options"]["labels"] = ["contradiction", "neutral", "entailment"]

    edit_manifest(bundle.path, change)
    return Bundle.open(bundle.path)


def test_lengths_that_a_task_fills_by_itself_are_left_out_and_refused_when_asked_for(zero_shot: Bundle) -> None:
    assert lengths_of([zero_shot], ()) == [40]  # of 16 and 40; "This example is weather." has more than 16
    with pytest.raises(UsageError, match="16 tokens are too few for zero-shot-classification"):
        Text(zero_shot).of(16)


def test_a_text_has_the_lengths_it_is_asked_for(zero_shot: Bundle, embedder: Bundle) -> None:
    assert lengths_of([embedder], ()) == [16, 32]
    for bundle, tokens in ((zero_shot, 36), (embedder, 7)):
        feeds = Text(bundle).feeds(tokens, bundle.manifest.artifacts[0].signature)
        assert feeds["input_ids"].shape == (1, tokens)


def test_artifacts_of_one_format_are_told_apart(embedder: Bundle) -> None:
    result = bench(embedder, Host(), runs=1, warmup=0, tokens=(5,))
    assert "\nonnx " in f"\n{benched(result)}"
    assert "onnx-fp32" not in benched(result)
    (record,) = result.records
    other = dataclasses.replace(record, id="onnx-int8-static")
    both = benched(dataclasses.replace(result, records=(record, other))).splitlines()
    assert [line.split()[0] for line in both[:3]] == ["artifact", "onnx-fp32", "onnx-int8-static"]
