"""The gate: real artifacts in real workers, with a planted fault for everything that it promises to notice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.agreement import Agreement, AgreementMatrix
from edgellm.core.evaluation import Drop, Evaluation
from edgellm.device.host import Host
from edgellm.errors import BundleError, EdgellmError, GateError, UsageError
from edgellm.runtime import Bundle
from edgellm.stages.judge import judge as gate
from edgellm.stages.verify import matrix, run_cases, verify_bundle
from tests.tiny import TEXTS, edit_manifest, reseal, tiny_bundle

HOST = Host()
LONG = "the river rose and the road was gone by noon and the kettle was red where did you put it"


@pytest.mark.parametrize("task", ["feature-extraction", "text-classification"])
def test_a_faithful_artifact_passes(tmp_path: Path, task: str) -> None:
    result = verify_bundle(tiny_bundle(tmp_path / "bundle", task), HOST)
    (verdict,) = result.artifacts
    assert (result.ok, verdict.ok, result.device, result.emulated) == (True, True, "host", False)
    assert verdict.agreement.n == len(TEXTS)
    assert verdict.agreement.mean == pytest.approx(1, abs=1e-6)


def test_an_artifact_with_other_weights_fails(tmp_path: Path) -> None:
    result = verify_bundle(tiny_bundle(tmp_path / "bundle", noise=0.5), HOST)
    assert not result.ok
    assert not result.artifacts[0].ok
    assert result.artifacts[0].agreement.mean < 0.95
    assert result.artifacts[0].agreement.worst in TEXTS


def test_an_artifact_of_nothing_but_nan_fails(tmp_path: Path) -> None:
    result = verify_bundle(tiny_bundle(tmp_path / "bundle", noise=float("nan")), HOST)
    assert (result.ok, result.artifacts[0].agreement.mean) == (False, 0)


def test_the_gate_is_the_manifest_s(tmp_path: Path) -> None:
    assert verify_bundle(tiny_bundle(tmp_path / "bundle", noise=0.5, min_agreement=0.5), HOST).ok


def test_classifiers_are_judged_by_decisions(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", "text-classification", noise=1.5)
    agreement = verify_bundle(bundle, HOST).artifacts[0].agreement
    assert agreement.metric == "equal decisions"
    assert agreement.min == 0
    assert agreement.mean * agreement.n == pytest.approx(round(agreement.mean * agreement.n))


def test_a_number_of_cases_is_a_number_of_cases(embedder: Bundle) -> None:
    assert verify_bundle(embedder, HOST, cases=3).artifacts[0].agreement.n == 3


def test_formats_choose_artifacts(embedder: Bundle) -> None:
    assert [v.format for v in verify_bundle(embedder, HOST, formats=["onnx"]).artifacts] == ["onnx"]
    with pytest.raises(UsageError, match="No format 'tflite'"):
        verify_bundle(embedder, HOST, formats=["tflite"])


def test_a_tokenizer_that_gives_other_ids_is_noticed_from_raw_text(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    tokenizer = bundle.path / "tokenizer.json"
    data = json.loads(tokenizer.read_text())
    data["normalizer"]["lowercase"] = False  # the vectors of the golden ids would still be right
    tokenizer.write_text(json.dumps(data))
    reseal(bundle.path)
    with pytest.raises(GateError, match=r'tokenizer on host gives other ids .* on "The kettle is on\."'):
        verify_bundle(Bundle.open(bundle.path), HOST)


def test_a_damaged_file_fails_before_anything_runs(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.path / "README.md").write_text("# other")
    with pytest.raises(BundleError, match=r"README\.md"):
        verify_bundle(bundle, HOST)


def test_a_bundle_without_golden_cases_proves_nothing_and_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", texts=())
    with pytest.raises(EdgellmError, match="golden"):
        verify_bundle(bundle, HOST)


def test_golden_cases_of_other_inputs_are_an_error_of_ours(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    golden = bundle.path / "golden.jsonl"
    golden.write_text(golden.read_text().replace("attention_mask", "position_ids"))
    reseal(bundle.path)
    with pytest.raises(EdgellmError):
        verify_bundle(Bundle.open(bundle.path), HOST)


def test_a_long_text_is_compared_as_it_was_cut(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", texts=(LONG,), max_tokens=8)
    assert verify_bundle(bundle, HOST).ok
    edit_manifest(bundle.path, lambda data: data.update(max_tokens=9))
    with pytest.raises(GateError, match=r'other ids than the source\'s on "the river rose .*\.\.\."'):
        verify_bundle(Bundle.open(bundle.path), HOST)


def test_the_matrix_compares_every_pair(tmp_path: Path) -> None:
    good, bad = tiny_bundle(tmp_path / "good"), tiny_bundle(tmp_path / "bad", noise=0.8)
    golden = list(good.golden())
    outputs = {
        "good": run_cases(good, good.artifact("onnx"), golden, HOST),
        "bad": run_cases(bad, bad.artifact("onnx"), golden, HOST),
    }
    table = matrix(good, golden, outputs)
    assert table.names == ("source", "good", "bad")
    np.testing.assert_allclose(table.values, np.transpose(table.values), atol=1e-9)
    np.testing.assert_allclose(np.diag(table.values), 1, atol=1e-9)
    assert table.values[0][1] > 0.9999 > table.values[0][2]
    assert table.odd_one_out() == "bad"


def artifact(bundle: Bundle, mean: float, scheme: str = "int8-dynamic", **changes: Any) -> Any:
    agreement = Agreement("cosine similarity", mean, mean - 0.1, 64, "Reset the " + "router " * 20, "host")
    return dataclasses.replace(bundle.manifest.artifacts[0], scheme=scheme, agreement=agreement, **changes)


TABLE = AgreementMatrix(("source", "tflite-int8", "onnx-int8"), ((1, 0.999, 0.61), (0.999, 1, 0.6), (0.61, 0.6, 1)))


def test_the_gate_says_by_how_much_on_which_text_what_to_try_and_who_is_odd(embedder: Bundle) -> None:
    with pytest.raises(GateError) as caught:
        gate([artifact(embedder, 0.61)], TABLE, 0.99, 1.0)
    message = str(caught.value)
    assert (
        "onnx int8-dynamic agrees with the fp32 model by 0.6100 (mean cosine similarity of 64 texts; the gate is 0.99)"
        in message
    )
    assert 'worst 0.5100 on "Reset the router' in message
    assert '..."' in message
    assert "The odd one out is onnx-int8." in message
    assert "Try --scheme int8-weight-only" in message
    assert [line.split() for line in message.splitlines()[-6:-3]] == [
        ["source", "tflite-int8", "onnx-int8"],
        ["source", "1.0000", "0.9990", "0.6100"],
        ["tflite-int8", "0.9990", "1.0000", "0.6000"],
    ]


@pytest.mark.parametrize("mean", [0.99, 0.995, 1.0])
def test_the_gate_lets_through_what_reaches_it(embedder: Bundle, mean: float) -> None:
    gate([artifact(embedder, mean)], TABLE, 0.99, 1.0)


@pytest.mark.parametrize("mean", [0.98999, 0.0, -1.0, float("nan")])
def test_the_gate_stops_what_does_not(embedder: Bundle, mean: float) -> None:
    with pytest.raises(GateError):
        gate([artifact(embedder, 1.0), artifact(embedder, mean)], TABLE, 0.99, 1.0)


def test_an_fp32_artifact_below_the_gate_is_a_bug_to_report(embedder: Bundle) -> None:
    with pytest.raises(GateError, match="please report it"):
        gate([artifact(embedder, 0.9, "fp32")], TABLE, 0.99, 1.0)


@pytest.mark.parametrize(("value", "stopped"), [(0.90, False), (0.89, False), (0.88, True), (0.95, False)])
def test_the_task_s_metric_may_fall_by_what_is_allowed(embedder: Bundle, value: float, stopped: bool) -> None:
    lost = 100 * (0.90 - value)
    evaluation = Evaluation(
        "accuracy", 200, 0.90, value, metrics={"accuracy": (0.90, value)}, drop=Drop(lost, lost - 1.5, lost + 1.5),
        flipped=4, flipped_share=0.02, mcnemar_p=0.125, flips=(),
    )  # fmt: skip
    measured = artifact(embedder, 1.0, evaluation=evaluation)
    if not stopped:
        gate([measured], TABLE, 0.99, 1.0)
        return
    with pytest.raises(GateError) as caught:
        gate([measured], TABLE, 0.99, 1.0)
    assert (
        f"has an accuracy of {value:.4f} on 200 labelled texts, the fp32 model 0.9000: -2.0 points, 95 % interval "
        "-3.5 to -0.5, a real loss (--max-drop is 1)." in str(caught.value)
    )


def test_a_loss_that_may_be_noise_stops_nothing(embedder: Bundle) -> None:
    evaluation = Evaluation(
        "accuracy", 20, 0.90, 0.80, metrics={"accuracy": (0.90, 0.80)}, drop=Drop(10.0, 0.0, 25.0),
        flipped=2, flipped_share=0.1, mcnemar_p=0.5, flips=(),
    )  # fmt: skip
    gate([artifact(embedder, 1.0, evaluation=evaluation)], TABLE, 0.99, 1.0)
