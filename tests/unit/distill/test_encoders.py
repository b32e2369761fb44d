"""Distilling encoders: what comes out is an ordinary checkpoint, and what can't go together is refused before training."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgellm.core.training import Training
from edgellm.errors import InputError, UsageError
from edgellm.texts import default_texts
from tests.unit.stages.folders import read

if TYPE_CHECKING:
    from edgellm.core.distill import DistilledEncoder

Model = Callable[[str], Path]
TEXTS = [text for text in default_texts("golden") if text.isascii() and "\n" not in text and text.strip()][:60]
SHORT = Training(epochs=2, batch=8, rate=3e-3, threads=1)
ROWS: dict[str, list[dict[str, Any]]] = {
    "classifier": [{"text": text, "label": ("calm", "glad", "sad")[len(text) % 3]} for text in TEXTS],
    "several": [{"text": text, "label": ["calm", "sad"] if len(text) % 2 else ["glad"]} for text in TEXTS],
    "stars": [{"text": text, "label": len(text) / 20} for text in TEXTS],
    "tagger": [
        {"tokens": text.split(), "tags": ["B-PER" if word[0].isupper() else "O" for word in text.split()]}
        for text in TEXTS
    ],
    "encoder": [{"text": a, "text_pair": b, "score": len(a) % 5} for a, b in pairwise(TEXTS)],
}
pytestmark = pytest.mark.filterwarnings("default")  # of torch's and tensorboard's own


def distil(teacher: Path, out: Path, **options: Any) -> DistilledEncoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns when it is imported
        from edgellm.distill.encoders import distill_encoder
    return distill_encoder(
        teacher, out, **{"student": 1, "training": SHORT, "quiet": True, "max_tokens": 24, **options}
    )


def rows(path: Path, kind: str, part: slice = slice(None)) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind][part]), encoding="utf-8")
    return path


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def answer(folder: Path, text: str) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model.eval()(**tokenizer(text, return_tensors="pt", padding=False)).logits[0].tolist()


def test_unlabelled_texts_teach_what_the_teacher_answers(tmp_path: Path, model: Model) -> None:
    teacher, out = model("classifier"), tmp_path / "out"
    result = distil(teacher, out, data=lines(tmp_path / "texts.txt", TEXTS))
    losses = [step.values["eval_loss"] for step in result.trained.curve if "eval_loss" in step.values]
    assert losses[-1] < losses[0]
    assert (result.trained.status, result.layers, result.signals.hard) == ("finished", (0,), 0.0)
    assert result.parameters[1] < result.parameters[0]
    (dev,) = result.scores
    assert dev.part == "dev"
    assert dev.texts + result.texts == len(TEXTS)
    assert dev.metric is dev.student is None
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("logs/")] == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json",
    ]  # fmt: skip
    facts = json.loads((out / "training.json").read_text())
    assert sorted(facts["files"]) == names
    assert facts["parameters"] == list(result.parameters)
    assert str(tmp_path) not in (out / "training.json").read_text()
    assert not (tmp_path / "out.training").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    assert config["architectures"] == ["BertForSequenceClassification"]
    source = read(out)
    assert (source.task, source.options.labels) == ("text-classification", ("calm", "glad", "sad"))


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_every_task_learns_of_labelled_texts(tmp_path: Path, model: Model, kind: str) -> None:
    teacher, out = model(kind), tmp_path / "out"
    data, test = rows(tmp_path / "data.jsonl", kind, slice(10, None)), rows(tmp_path / "test.jsonl", kind, slice(0, 8))
    result = distil(teacher, out, data=data, test=test, hard=0.4)
    dev, tested = result.scores
    assert (dev.part, tested.part, tested.texts) == ("dev", "test", 8)
    assert tested.metric == {
        "classifier": "accuracy", "several": "macro-F1", "stars": "spearman", "tagger": "entity F1", "encoder": "spearman",
    }[kind]  # fmt: skip
    assert tested.teacher is not None
    assert -1 <= tested.agreed <= 1
    assert result.signals.hard == (0.0 if kind == "encoder" else 0.4)
    assert read(out, task="feature-extraction" if kind == "encoder" else None).parameters == result.parameters[1]


def test_labels_are_learned(tmp_path: Path, model: Model) -> None:
    several = Training(epochs=30, batch=8, rate=5e-3, threads=1)
    easy = [
        {"text": f"{word} {n}", "label": label} for word, label in (("red", "calm"), ("tea", "sad")) for n in range(40)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in easy), encoding="utf-8")
    result = distil(model("classifier"), tmp_path / "out", data=data, hard=1.0, hidden=0.0, training=several)
    assert result.trained.metric == "accuracy"
    assert result.scores[0].student == 1.0


def test_a_pruned_student_recovers(tmp_path: Path, model: Model) -> None:
    data = lines(tmp_path / "texts.txt", TEXTS)
    for attention, attend in ((0.0, "relations"), (1.0, "relations")):
        result = distil(
            model("encoder"), tmp_path / "out", student=model("pruned"), data=data, attention=attention, attend=attend
        )
        assert result.student == "pruned"
        assert result.layers is None
        (dev,) = result.scores
        assert dev.agreed > 0.9
    with pytest.raises(InputError, match="attention heads"):
        distil(model("encoder"), tmp_path / "new", student=model("pruned"), data=data, attention=1.0, attend="maps")
    # What was pruned is as narrow as before, and everything builds that can be loaded.
    source = read(tmp_path / "out", task="feature-extraction")
    assert source.parameters == read(model("pruned"), task="feature-extraction").parameters


def test_a_paused_training_goes_on_and_gives_the_same_student(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows(tmp_path / "data.jsonl", "classifier")
    whole = distil(model("classifier"), tmp_path / "whole", data=data)
    from edgellm.training import running

    now = iter([0.0] + [1.0] * 4 + [1000.0] * 100)
    monkeypatch.setattr(running.time, "monotonic", lambda: next(now))
    options = {**vars(SHORT), "seconds": 500.0}
    paused = distil(model("classifier"), tmp_path / "out", data=data, training=Training(**options))
    monkeypatch.undo()
    assert (paused.trained.status, paused.scores, paused.trained.steps) == ("paused", (), 5)
    assert paused.folder == str(tmp_path / "out.training")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="other options or data"):
        distil(model("classifier"), tmp_path / "out", data=data, temperature=3.0)
    done = distil(model("classifier"), tmp_path / "out", data=data)
    assert done.scores == whole.scores
    assert answer(tmp_path / "out", "red boots") == pytest.approx(answer(tmp_path / "whole", "red boots"))


def test_a_student_is_replaced_and_nothing_else(tmp_path: Path, model: Model) -> None:
    data, out = lines(tmp_path / "texts.txt", TEXTS[:20]), tmp_path / "out"
    first = distil(model("classifier"), out, data=data)
    distil(model("classifier"), out, data=data, temperature=1.0)
    assert json.loads((out / "training.json").read_text())["signals"]["temperature"] == 1.0
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="left alone"):
        distil(model("classifier"), out, data=data)
    assert (out / "notes.txt").read_text() == "mine"
    assert first.folder == str(out)
    other = shutil.copytree(model("encoder"), tmp_path / "other")
    for place in (other, tmp_path / "texts.txt"):
        with pytest.raises(UsageError, match=r"left alone|no folder"):
            distil(model("classifier"), place, data=data)
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(UsageError, match="no folder"):
        distil(model("classifier"), tmp_path / "link", data=data)


def _labels(folder: Path, labels: dict[str, str]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": labels}))


def _other_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    pieces = data["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]
    path.write_text(json.dumps(data), encoding="utf-8")


def _reads_otherwise(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["normalizer"] = {**data["normalizer"], "lowercase": False}
    path.write_text(json.dumps(data), encoding="utf-8")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (_no_weights, "no weights"),
    "a pickle": (_a_pickle, "pickle"),
    "other labels": (lambda folder: _labels(folder, {"0": "calm", "1": "glad", "2": "bad"}), "labels"),
    "labels in another order": (lambda folder: _labels(folder, {"0": "sad", "1": "glad", "2": "calm"}), "labels"),
    "other vocabulary": (_other_vocabulary, "vocabular"),
    "other letters": (_reads_otherwise, "as other tokens"),
    "no model": (lambda folder: (folder / "config.json").unlink(), "no model"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_student_that_does_not_belong_to_its_teacher_is_refused(tmp_path: Path, model: Model, fault: str) -> None:
    student = shutil.copytree(model("classifier"), tmp_path / "student")
    damage, says = FAULTS[fault]
    damage(student)
    data = lines(tmp_path / "texts.txt", [*TEXTS, "The Kettle IS On."])
    with pytest.raises(InputError, match=says) as raised:
        distil(model("classifier"), tmp_path / "out", student=student, data=data)
    assert raised.value.exit_code == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no row|no text"),
        ('{"text": "a", "label": "furious"}\n', "line 1.*no label 'furious'"),
        ('{"text": "a", "label": "calm"}\n{"text": "b"}\n', "line 2.*label"),
        ('{"text": "", "label": "calm"}\n', "empty text"),
        ('{"text": "a", "label": "calm"}\n', "too few"),
    ],
)
def test_data_that_can_t_be_learned_is_refused(tmp_path: Path, model: Model, content: str, says: str) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        distil(model("classifier"), tmp_path / "out", data=data)


def test_texts_are_on_one_side_only(tmp_path: Path, model: Model) -> None:
    data = lines(tmp_path / "texts.txt", TEXTS)
    with pytest.raises(InputError, match="both hold"):
        distil(model("classifier"), tmp_path / "out", data=data, dev=lines(tmp_path / "dev.txt", TEXTS[5:7]))
    with pytest.raises(InputError, match="both hold"):
        distil(model("classifier"), tmp_path / "out", data=data, test=lines(tmp_path / "dev.txt", TEXTS[5:7]))
    with pytest.raises(InputError, match=r"There is no .*none\.jsonl"):
        distil(model("classifier"), tmp_path / "out", data=tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"student": 0}, "student of 0 layers"),
        ({"student": 3}, "has 2"),
        ({"student": 1, "initial": (2,)}, "0 to 1"),
        ({"student": 2, "initial": (1, 0)}, "in their order"),
        ({"student": 2, "initial": (1,)}, "2 layers"),
        ({"temperature": 0.0}, "--temperature"),
        ({"hard": 1.5}, "--hard"),
        ({"hidden": -1.0}, "--hidden"),
        ({"attention": float("nan")}, "--attention"),
        ({"match": "mes"}, "Did you mean 'mse'"),
        ({"attend": "map"}, "Did you mean 'maps'"),
        ({"task": "fill-mask"}, "fill-mask"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, model: Model, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        distil(model("classifier"), tmp_path / "out", data=lines(tmp_path / "texts.txt", TEXTS), **options)
    assert not (tmp_path / "out").exists()


def test_layers_that_are_named_are_the_student_s(tmp_path: Path, model: Model) -> None:
    from safetensors.numpy import load_file

    from edgellm.distill.shorten import shorten

    source = read(model("classifier"))
    assert shorten(source, 1, (1,), tmp_path / "second") == (1,)
    whole, second = (load_file(folder / "model.safetensors") for folder in (model("classifier"), tmp_path / "second"))
    for name, value in second.items():
        assert (value == whole[name.replace("layer.0.", "layer.1.")]).all()
    shorten(source, 2, None, tmp_path / "all")
    assert answer(tmp_path / "all", "red boots") == answer(model("classifier"), "red boots")
    assert os.stat(tmp_path / "all/config.json").st_size > 0


def test_the_licence_goes_with_the_weights(tmp_path: Path, model: Model) -> None:
    teacher = shutil.copytree(model("classifier"), tmp_path / "teacher")
    (teacher / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A card\n")
    distil(teacher, tmp_path / "out", data=lines(tmp_path / "texts.txt", TEXTS[:20]))
    assert read(tmp_path / "out").licence == "cc-by-4.0"
    assert "A card" not in (tmp_path / "out/README.md").read_text()
