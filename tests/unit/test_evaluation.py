"""Evaluating a bundle on labelled examples: real workers, real statistics, and faults that have to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import BundleError, InputError
from edgellm.evaluation import evaluate
from edgellm.runtime import Bundle, Session
from tests.tiny import LABELS, edit_manifest, tiny_bundle
from tests.unit.cli.command import call

TASK = "text-classification"
WORDS = ("boots", "river", "road", "noon", "fish", "chips", "kettle", "keeper", "red", "rose")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("full") / "bundle", TASK)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("noisy") / "bundle", TASK, noise=2.0)


@pytest.fixture(scope="module")
def data(full: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose labels are the fp32 bundle's own decisions, but for every tenth."""
    texts = [f"{a} {b} and {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]
    session = Session.open(full.path)
    path = tmp_path_factory.mktemp("data") / "dev.jsonl"
    with path.open("w") as lines:
        for i, (text, result) in enumerate(zip(texts, session(texts), strict=True)):
            value: Any = result.value
            label = value[0]["label"] if i % 10 else next(name for name in LABELS if name != value[0]["label"])
            lines.write(json.dumps({"text": text, "label": label}) + "\n")
    return path


def test_without_a_source_the_metrics_stand_alone(full: Bundle, data: Path) -> None:
    found = evaluate(full, data)
    assert (found.n, found.device, found.source, found.ok) == (200, "host", None, True)
    (only,) = found.artifacts
    assert (only.id, only.truncated, only.evaluation) == ("onnx-fp32", 0, None)
    assert only.metrics["accuracy"] == pytest.approx(0.9)
    assert evaluate(full, data).data_sha256 == found.data_sha256


def test_an_artifact_like_its_source_loses_nothing(full: Bundle, data: Path) -> None:
    found = evaluate(full, data, source=str(full.path), max_drop=0)
    result = found.artifacts[0].evaluation
    assert result is not None
    assert (result.flipped, result.drop.points, result.drop.low, result.drop.high) == (0, 0, 0, 0)
    assert found.ok


def test_an_artifact_that_lost_something_shows_how_much_and_where(full: Bundle, noisy: Bundle, data: Path) -> None:
    found = evaluate(noisy, data, source=str(full.path), max_drop=0.5)
    result = found.artifacts[0].evaluation
    assert result is not None
    assert not found.ok
    assert result.source == pytest.approx(0.9)
    assert result.drop.real
    assert result.drop.low < result.drop.points < result.drop.high
    assert result.mcnemar_p is not None
    assert result.mcnemar_p < 0.001
    assert 0 < len(result.flips) <= 20
    assert result.flips[0].source == result.flips[0].expected != result.flips[0].got


def test_texts_that_were_cut_are_counted(full: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "long.tsv"
    path.write_text(f"text\tlabel\n{'boots ' * 50}\t{LABELS[0]}\nboots\t{LABELS[1]}\n")
    assert evaluate(full, path).artifacts[0].truncated == 1


def test_a_metric_that_is_undefined_is_refused_and_never_printed_as_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = tiny_bundle(tmp_path / "vectors")
    path = tmp_path / "pairs.tsv"
    path.write_text("text\ttext_pair\tscore\nred\tboots\t1\nfish\tchips\t1\n")
    done = call(capsys, "eval", vectors.path, "--data", path, "--json")
    assert (done.code, done.out) == (3, "")
    assert "spearman is undefined for onnx-fp32 on these 2 examples" in done.err
    path.write_text("text\ttext_pair\tscore\nred\tboots\t1\n")
    assert "takes two examples or more" in call(capsys, "eval", vectors.path, "--data", path).err


def test_the_source_has_to_be_the_bundle_s(full: Bundle, noisy: Bundle, data: Path, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", TASK)
    edit_manifest(other.path, lambda manifest: manifest["model"].update(source_sha256="cd" * 32))
    with pytest.raises(InputError, match="is not the model that the bundle was built from"):
        evaluate(noisy, data, source=str(other.path))
    short = tiny_bundle(tmp_path / "short", TASK, max_tokens=8)
    with pytest.raises(InputError, match="another task or length"):
        evaluate(noisy, data, source=str(short.path))
    int8 = tiny_bundle(tmp_path / "int8", TASK)
    edit_manifest(int8.path, lambda manifest: manifest["artifacts"][0].update(scheme="int8-dynamic"))
    with pytest.raises(InputError, match="holds no fp32 artifact"):
        evaluate(noisy, data, source=str(int8.path))
    with pytest.raises(InputError, match="There is no"):
        evaluate(noisy, data, source=str(tmp_path / "gone"))


def test_a_damaged_source_is_noticed(noisy: Bundle, data: Path, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", TASK)
    path = other.path / other.manifest.artifacts[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="was altered"):
        evaluate(noisy, data, source=str(other.path))


def test_the_command_prints_a_table_keeps_a_report_and_fails_on_a_real_loss(
    full: Bundle, noisy: Bundle, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(capsys, "eval", noisy.path, "--data", data, "--source", full.path, "--max-drop", "0.5")
    assert done.code == 5, done
    for part in ("accuracy", "macro-F1", "fp32 source", "0.9000", "FAILED", "200 examples of dev.jsonl, run on host",
                 "Changed by onnx:", "people say"):  # fmt: skip
        assert part in done.out, done.out
    report = json.loads((noisy.path / "reports" / "eval-host-dev.jsonl.json").read_text())
    assert (report["ok"], report["n"], report["artifacts"][0]["id"]) == (False, 200, "onnx-fp32")
    done = call(capsys, "eval", noisy.path, "--data", data, "--source", full.path, "--json")
    assert done.code == 0
    assert json.loads(done.out)["artifacts"][0]["evaluation"]["drop"]["points"] > 0
    noisy.use_all()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--max-drop", "1"], 2, "--max-drop needs --source"),
        (["--data", "gone.tsv"], 3, "can't be read"),
        (["--device", "emulator:x"], 2, "No emulated CPU 'x'"),
        (["--format", "tflite"], 2, "No format 'tflite'"),
    ],
)
def test_what_can_t_be_evaluated(
    full: Bundle, data: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    done = call(capsys, "eval", full.path, "--data", data, *options)
    assert done.code == code, done
    assert said in done.err
