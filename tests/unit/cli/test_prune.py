"""`edgellm prune`: what can't be is said before torch is loaded, and what was removed is a table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.cli.prune import shown
from edgellm.core import strict
from edgellm.core.evaluation import Drop
from edgellm.core.prune import Change, Layer, Pruned, Quality, structures_of
from edgellm.errors import EdgellmError, GateError, InputError, UsageError
from edgellm.prune import Options, gate
from edgellm.prune.setup import checked
from tests.unit.cli.command import call, spawn
from tests.unit.stages.folders import model_folder

LABELS = {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "no", "1": "yes"},
    "label2id": {"no": 0, "yes": 1},
}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (Options("m", 0.0), UsageError, "--sparsity is 0"),
        (Options("m", 1.0), UsageError, "--sparsity is 1"),
        (Options("m", float("nan")), UsageError, "--sparsity is nan"),
        (Options("m", 0.4, max_drop=-1), UsageError, "--max-drop is -1"),
        (Options("m", 0.4, rounds=0), UsageError, "--rounds and --samples are 1 or more"),
        (Options("m", 0.4, test="t.tsv"), UsageError, "--test has no use without --data"),
        (Options("m", 0.4, structure="head"), UsageError, "Did you mean 'heads'?"),
        (Options("m", 0.4, structure=","), UsageError, "--structure is empty"),
        (Options("m", 0.4, structure="unstructured"), UsageError, "zeros among the weights make no engine here faster"),
        (Options("m", 0.4, structure="heads,weights"), UsageError, "--structure weights is refused"),
        (Options("m", 0.4, recover=-1), UsageError, "--recover is -1"),
        (Options("m", 0.4, recover=1, rate=0.0), UsageError, "--rate is 0"),
        (Options("m", 0.4, rate=1e-3), UsageError, "--rate has no use without --recover"),
        (Options("m", 0.4, precision="bf16"), UsageError, "--precision has no use without --recover"),
        (Options("m", 0.4, recover=1, precision="b16"), UsageError, "Did you mean 'bf16'?"),
        (Options("m", 0.4, threads=0), UsageError, "--threads is 0"),
        (Options("m", 0.4, seed=-1), UsageError, "--seed is -1"),
        (Options("m", 0.4, max_tokens=4), UsageError, "takes more than 4"),
        (Options("package.module:function", 0.4), InputError, "a function leaves no folder to rewrite"),
        (Options("nowhere", 0.4), InputError, "There is no nowhere"),
    ],
)
def test_what_cant_be_is_said_at_once(options: Options, kind: type[EdgellmError], message: str) -> None:
    with pytest.raises(kind) as error:
        checked(options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options("m", 0.4, scheme="int8-dynmic"), "Did you mean 'int8-dynamic'?"),
        (Options("m", 0.4, scheme="mixed"), "--scheme mixed can't be timed here"),
        (Options("m", 0.4, scheme="a16w8"), "can't express a16w8"),
        (Options("m", 0.4, formats=("onix",)), "Did you mean 'onnx'?"),
        (Options("m", 0.4, formats=("onnx",), measure=False), "--format has no use with --no-measure"),
        (Options("m", 0.4, scheme="fp32", measure=False), "--scheme has no use with --no-measure"),
    ],
)
def test_what_could_not_be_timed_in_the_end_is_said_at_once(tmp_path: Path, options: Options, message: str) -> None:
    model = model_folder(tmp_path / "m", **LABELS)
    with pytest.raises(UsageError) as error:
        checked(dataclasses.replace(options, model=str(model), out=str(tmp_path / "out")))
    assert message in str(error.value)


def test_structures_are_named_in_one_order() -> None:
    assert structures_of(" layers,FFN , heads,ffn") == ("heads", "ffn", "layers")


def test_a_refusal_is_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "prune", "m", "--sparsity", "0.4", "--structure", "unstructured")
    assert done.code == 2
    assert "--structure heads,ffn makes the matrices themselves smaller." in done.err


def test_nothing_is_loaded_for_a_refusal() -> None:
    done = spawn("prune", "nowhere", "--sparsity", "0.4", PYTHONPROFILEIMPORTTIME="1")
    assert done.code == 3
    assert not [line for line in done.err.splitlines() if line.rpartition("|")[2].strip() in ("torch", "transformers")]


def test_data_that_chooses_is_not_measured_on(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", **LABELS)
    rows = [json.dumps({"text": f"the boots of number {n}", "label": "yes" if n % 2 else "no"}) for n in range(60)]
    data, test = tmp_path / "data.jsonl", tmp_path / "test.jsonl"
    data.write_text("\n".join(rows))
    found = checked(Options(str(model), 0.4, data=str(data), out=str(tmp_path / "o"), samples=10))
    ours, others = {each.inputs for each in found.chosen}, {each.inputs for each in found.confirm.examples}
    assert len(ours | others) == 60
    assert not ours & others
    assert 10 < len(others) < 30
    assert len(found.scoring) <= 10
    assert {each.inputs for each in found.scoring} <= ours
    assert [(json.loads(rows[place])["text"],) for place in found.places] == [each.inputs for each in found.chosen]
    test.write_text(rows[5])
    with pytest.raises(InputError, match="both hold"):
        checked(Options(str(model), 0.4, data=str(data), test=str(test), out=str(tmp_path / "o")))


def test_a_classifier_needs_labels_and_an_encoder_none(tmp_path: Path) -> None:
    classifier, encoder = model_folder(tmp_path / "c", **LABELS), model_folder(tmp_path / "e")
    with pytest.raises(UsageError, match="needs labelled examples"):
        checked(Options(str(classifier), 0.4))
    found = checked(Options(str(encoder), 0.4, out=str(tmp_path / "o")))
    assert not found.confirm.examples
    assert found.confirm.inputs
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"the boots of number {n}" for n in range(40)))
    found = checked(Options(str(encoder), 0.4, data=str(lines), out=str(tmp_path / "o")))
    assert found.chosen[0].gold is None
    assert len(found.chosen) + found.confirm.n == 40


def test_pairs_are_read_as_a_distillation_reads_them(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", architectures=["CtcForSeq2Seq"], slots_per_token=2)
    for name, head in (("plain.tsv", ""), ("headed.tsv", "text\ttarget\n")):
        (tmp_path / name).write_text(head + "".join(f"boots {n}\tb o o t {n}\n" for n in range(30)))
        found = checked(Options(str(model), 0.4, data=str(tmp_path / name), out=str(tmp_path / "o")))
        assert len(found.chosen) + found.confirm.n == 30
        assert found.chosen[0].gold == (f"b o o t {str(found.chosen[0].inputs[0]).split()[1]}",)


def test_what_recovers_holds_some_back(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", architectures=["CtcForSeq2Seq"], slots_per_token=2)
    options = Options(
        str(model), 0.4, data=str(tmp_path / "data.tsv"), out=str(tmp_path / "o"), recover=1, measure=False
    )
    (tmp_path / "data.tsv").write_text("".join(f"boots {n}\tb o o t\n" for n in range(60)))
    assert checked(options).options.recover == 1
    (tmp_path / "data.tsv").write_text("".join(f"boots {n}\tb o o t\n" for n in range(4)))
    with pytest.raises(InputError, match="best step by a tenth of the examples, and there are"):
        checked(options)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "question-answering"),
        ({"architectures": ["MaskPredictForSeq2Seq"], "slots_per_token": 2}, "mask-predict-seq2seq"),
    ],
)
def test_a_task_without_a_loss_is_refused(tmp_path: Path, config: dict[str, object], task: str) -> None:
    model = model_folder(tmp_path / "m", **config)
    with pytest.raises(InputError, match=f"no loss to prune a model of {task} by"):
        checked(Options(str(model), 0.4, out=str(tmp_path / "o")))


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m")
    with pytest.raises(UsageError, match="exists already, and is left alone"):
        checked(Options(str(model), 0.4, out=str(model)))


QUALITY = Quality("accuracy", "dev.jsonl", 1005, 0.9284, 0.9085, None, Drop(1.99, 0.5, 3.4))
FOUND = Pruned(
    "m", "ab" * 32, "m-pruned", "text-classification", ("heads", "ffn"), 0.4, 0.399, "the loss", "512 of 6962 examples of t",
    (Layer("layer.0", False, 7, 12, 960, 1536, (1, 2, 3, 4, 5)), Layer("layer.1", True, 0, 12, 0, 1536, tuple(range(12)))),
    Change(1000, 601), Change(3000, 2601), Change(10**6, 6 * 10**5), 128, QUALITY, None,
)  # fmt: skip


def test_what_was_removed_is_a_table() -> None:
    text = shown(FOUND)
    assert "39.9% of the layers' parameters removed as heads and ffn" in text
    assert "layer.0      7  12      960  1536" in text
    assert "layer.1   gone  12     gone  1536" in text
    assert (
        "accuracy: 0.9284 before, 0.9085 pruned; lost 1.99 points, 95 % interval 0.50 to 3.40, on 1005 examples" in text
    )
    assert strict.read(Pruned, json.loads(json.dumps(strict.plain(FOUND))), "json") == FOUND


def test_a_loss_above_the_bound_fails(tmp_path: Path) -> None:
    setup = checked(Options(str(model_folder(tmp_path / "m")), 0.4, max_drop=1.5, out=str(tmp_path / "o")))
    with pytest.raises(GateError) as error:
        gate(QUALITY, setup)
    assert "m loses 2.0 points of accuracy by --sparsity 0.4" in str(error.value)
    assert "Nothing was written." in str(error.value)
    gate(dataclasses.replace(QUALITY, lost=Drop(1.5, 0.0, 3.0)), setup)


@pytest.mark.parametrize("points", [math.nan, math.inf])
def test_a_loss_that_is_no_number_fails(tmp_path: Path, points: float) -> None:
    setup = checked(Options(str(model_folder(tmp_path / "m")), 0.4, max_drop=1e9, out=str(tmp_path / "o")))
    with pytest.raises(GateError) as error:
        gate(dataclasses.replace(QUALITY, lost=Drop(points, 0.0, 0.0)), setup)
    assert "is no number" in str(error.value)
    assert "Nothing was written." in str(error.value)


def test_quiet_is_without_progress_but_not_without_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prune(options: Options, say: Callable[[str], None]) -> Pruned:
        say("round 1 of 8")
        return FOUND

    monkeypatch.setattr("edgellm.prune.prune", prune)
    done, loud = (call(capsys, "prune", "m", "--sparsity", "0.4", *more) for more in (["--quiet"], []))
    assert (done.out, done.err) == (f"{shown(FOUND)}\n", "")
    assert (loud.out, loud.err) == (f"{shown(FOUND)}\n", "round 1 of 8\n")
