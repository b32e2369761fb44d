"""The plan: an impossible build is refused in milliseconds, before anything is loaded, and says what would work."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgellm.core.precision import Precisions
from edgellm.core.scheme import PORTABLE, Tuning
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.stages import plan, source
from edgellm.stages.plan import Plan
from edgellm.stages.texts import Corpus
from edgellm.targets import load_target
from edgellm.tasks import Example
from edgellm.texts import default_texts
from tests.unit.stages.folders import model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "my-model")


@pytest.fixture
def classifier_folder(tmp_path: Path) -> Path:
    labels = {"0": "bad", "1": "good"}
    return model_folder(tmp_path / "judge", architectures=["BertForSequenceClassification"], id2label=labels)


def resolve(model: Path | str, **options: Any) -> Plan:
    chosen: dict[str, Any] = {
        "target": "linux-arm64", "formats": (), "schemes": (), "task": None, "tokenizer": None, "pooling": None,
        "calibration": None, "ranges": None, "golden": None, "eval": None, "max_drop": None, "min_agreement": 0.99,
        "seq_len": None, "out": None, "vocab_from": None, "describe": dict,
    }  # fmt: skip
    return plan.resolve(str(model), **{**chosen, **options})


def test_the_target_decides_what_is_left_out(folder: Path) -> None:
    made, target = resolve(folder), load_target("linux-arm64")
    assert (made.formats, made.target) == (target.formats, target)
    assert made.precisions == dict.fromkeys(target.formats, Precisions(target.scheme))
    assert made.out == Path("my-model-linux-arm64")
    assert len(made.golden) >= 64
    assert made.labelled == ()


def test_formats_come_in_the_target_s_order(folder: Path) -> None:
    order = load_target("linux-arm64").formats
    assert resolve(folder, formats=sorted(PORTABLE, reverse=True)).formats == order
    assert resolve(folder, formats=[order[1]]).formats == (order[1],)


@pytest.mark.parametrize(
    ("positions", "asked", "buckets"),
    [
        (512, None, (16, 32, 64, 128)),
        (64, None, (16, 32, 64)),
        (10, None, (10,)),
        (None, None, (16, 32, 64, 128)),
        (64, (64, 16, 16), (16, 64)),
        (None, (4, 1000), (4, 1000)),
    ],
)
def test_lengths_stay_within_the_position_table(
    tmp_path: Path, positions: int | None, asked: Any, buckets: tuple[int, ...]
) -> None:
    made = resolve(model_folder(tmp_path / "m", max_position_embeddings=positions), seq_len=asked)
    assert (made.buckets, made.max_tokens) == (buckets, buckets[-1])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"target": "linux-arm46"}, UsageError, "Did you mean 'linux-arm64'?"),
        ({"formats": ["onnx", "tflit"]}, UsageError, "No format 'tflit'. Did you mean 'tflite'?"),
        ({"schemes": ["int8"]}, UsageError, "No scheme 'int8'."),
        ({"schemes": ["int8-weight-only"]}, UsageError, "executorch can't express int8-weight-only: "),
        ({"min_agreement": 1.01}, UsageError, "--min-agreement is 1.01; it goes from 0 to 1"),
        ({"min_agreement": float("nan")}, UsageError, "--min-agreement is nan"),
        ({"out": ""}, UsageError, "--out is empty"),
        ({"tokenizer": ""}, UsageError, "--tokenizer is empty"),
        ({"vocab_from": ""}, UsageError, "--vocab-from is empty"),
        ({"vocab_from": "gone.txt"}, InputError, "The corpus file gone.txt can't be read: No such file"),
        (
            {"vocab_from": "blank.txt"},
            InputError,
            "The corpus file blank.txt holds no text. It takes one text per line",
        ),
        (
            {"calibration": "x.txt", "formats": ["tflite"]},
            UsageError,
            "--calibration has no use: int8-dynamic in tflite runs no samples",
        ),
        (
            {"calibration": "x.txt", "formats": ["onnx"], "schemes": ["int4-dynamic"], "tuning": Tuning(fit=False)},
            UsageError,
            "--calibration has no use: int4-dynamic in onnx with --no-fit runs no samples. Leave it out.",
        ),
        (
            {"calibration": "x.txt", "formats": ["onnx"], "tuning": Tuning(equalize=False)},
            UsageError,
            "--calibration has no use: int8-dynamic in onnx with --no-equalize runs no samples.",
        ),
        ({"golden": "gone.txt"}, InputError, "The golden file gone.txt can't be read: No such file"),
        (
            {"golden": "x.txt"},
            InputError,
            "x.txt holds 1 different texts; a gate on fewer than 32 proves little. Leave --",
        ),
        (
            {"ranges": "mse"},
            UsageError,
            "--ranges has no use: int8-dynamic has no calibrated 8-bit ranges. Use --scheme int8-st",
        ),
        (
            {"ranges": "msa", "schemes": ["int8-static"]},
            UsageError,
            "No way to choose ranges 'msa'. Did you mean 'mse'?",
        ),
        ({"max_drop": 0.5}, UsageError, "--max-drop has no use without --eval"),
        ({"max_drop": -1, "eval": "x.tsv"}, UsageError, "--max-drop is -1; it is 0 or more"),
        ({"eval": "x.tsv"}, InputError, "x.tsv line 2: The column text_pair misses; there is label, text."),
        ({"seq_len": ()}, UsageError, "--seq-len"),
        ({"seq_len": (3, 16)}, UsageError, "--seq-len 3,16: a length is 4 tokens or more"),
        ({"seq_len": (-1,)}, UsageError, "4 tokens or more"),
        ({"seq_len": (16, 65)}, UsageError, "--seq-len 65 is beyond the model, whose position table ends at 64"),
        ({"pooling": "max"}, UsageError, "No pooling 'max'"),
        ({"task": "feature-extractor"}, UsageError, "Did you mean 'feature-extraction'?"),
    ],
)
def test_an_impossible_build_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kind: Any, message: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "x.txt").write_text("one\n")
    (folder / "blank.txt").write_text("\n \n")
    (folder / "x.tsv").write_text("text\tlabel\none\tgood\n")
    with pytest.raises(kind) as caught:
        resolve(folder, **options)
    assert message in str(caught.value)


def test_ranges_are_part_of_the_plan(folder: Path) -> None:
    assert resolve(folder, schemes=["int8-static"]).ranges == "mse"
    made = resolve(folder, schemes=["int8-static"], ranges="entropy", formats=["tflite"])
    assert (made.ranges, len(made.calibration), made.own_calibration) == ("entropy", 96, False)


def test_what_is_tuned_on_nothing_says_so(folder: Path) -> None:
    assert len(resolve(folder, schemes=["int4-dynamic"]).calibration) == 96
    made = resolve(folder, schemes=["int4-dynamic"], tuning=Tuning(fit=False))
    assert (made.calibration, made.tuning.fit) == ((), False)


def test_golden_cases_may_be_texts_of_the_user(folder: Path, classifier_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("".join(f"text {number}\n" for number in (*range(300), *range(300))))
    made = resolve(folder, golden=own)
    assert made.golden == tuple(f"text {number}" for number in range(0, 300, 4))
    assert made.notes == ("The golden cases are 75 texts of own.txt, which the bundle holds.",)
    assert len(resolve(classifier_folder, golden=own).golden) == 150
    own.write_text("".join(f"text {number}\n" for number in range(32)))
    assert len(resolve(folder, golden=own).golden) == 32


def test_golden_cases_are_what_was_not_chosen_with(classifier_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("".join(f"text {number}\n" for number in range(32)))
    (tmp_path / "eval.tsv").write_text("text\tlabel\nText  7\tgood\n")
    with pytest.raises(InputError, match=r'evaluation texts and the golden texts both hold "Text  7"'):
        resolve(classifier_folder, golden=own, eval=tmp_path / "eval.tsv")
    with pytest.raises(InputError, match=r'calibration texts and the golden texts both hold "text 0"'):
        resolve(classifier_folder, golden=own, calibration=own)


def test_a_corpus_is_part_of_the_plan(folder: Path, tmp_path: Path) -> None:
    assert resolve(folder).corpus is None
    (tmp_path / "corpus.txt").write_bytes(b"the kettle\r\n\nis on\n")
    corpus = resolve(folder, vocab_from=tmp_path / "corpus.txt").corpus
    digest = hashlib.sha256(b"the kettle\r\n\nis on\n").hexdigest()
    assert corpus == Corpus("corpus.txt", digest, ("the kettle", "is on"))


def test_the_vocabulary_of_a_function_is_not_trimmed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("one\n")
    facts = {"config": {"hidden_size": 8, "vocab_size": 200}, "sha256": "00", "parameters": 9}
    options = {"task": "feature-extraction", "tokenizer": str(folder), "describe": lambda factory: facts}
    with pytest.raises(InputError, match=r"mine:tiny can't be trimmed: a function leaves no folder.*save_pretrained"):
        resolve("mine:tiny", vocab_from=tmp_path / "corpus.txt", **options)


def test_evaluation_texts_choose_no_vocabulary(classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("one\nTwo  texts\n")
    (tmp_path / "eval.tsv").write_text("text\tlabel\ntwo texts\tgood\n")
    with pytest.raises(InputError, match=r'corpus texts and the evaluation texts both hold "Two  texts"'):
        resolve(classifier_folder, vocab_from=tmp_path / "corpus.txt", eval=tmp_path / "eval.tsv")


def test_what_is_trimmed_may_fit_the_file_formats(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.txt").write_text("one\n")
    monkeypatch.setattr(source, "_count_parameters", lambda folder: 600_000_000)
    monkeypatch.setattr(plan, "available_memory", lambda: 10**15)
    made = resolve(folder, vocab_from=tmp_path / "corpus.txt")
    with pytest.raises(InputError, match=r"600 M parameters"):
        plan.check_size(made.source, made.formats)


def test_options_are_checked_before_the_model(folder: Path) -> None:
    for wrong in ({"target": "x"}, {"formats": ["x"]}, {"schemes": ["x"]}, {"min_agreement": 2}, {"task": "x"}):
        with pytest.raises(UsageError):
            resolve(folder / "gone", **wrong)


def test_a_format_that_the_target_lacks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(load_target("linux-arm64"), formats=("tflite",))
    monkeypatch.setattr(plan, "load_target", lambda name: small)
    with pytest.raises(UsageError, match="linux-arm64 takes no onnx; it takes tflite"):
        resolve(folder, formats=["onnx"])


def test_out_at_something_else_is_refused_given_or_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-model-linux-arm64").mkdir()
    (tmp_path / "my-model-linux-arm64" / "thesis.txt").write_text("precious")
    monkeypatch.chdir(tmp_path)
    for out in (None, "my-model-linux-arm64"):
        with pytest.raises(UsageError, match="is left alone"):
            resolve(folder, out=out)


def test_a_model_beyond_the_file_formats_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_count_parameters", lambda folder: 600_000_000)
    monkeypatch.setattr(plan, "available_memory", lambda: 10**15)
    with pytest.raises(InputError, match=r"600 M parameters, 2\.4 GB in fp32; ONNX and TFLite files end at 2\.1 GB"):
        resolve(folder)


@pytest.mark.parametrize(("free", "fits"), [(900_000_000, False), (4_000_000_000, True), (None, True)])
def test_a_model_beyond_the_memory_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, fits: bool
) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: free)
    if fits:
        resolve(folder)
        return
    with pytest.raises(InputError, match=r"takes about 1\.0 GB of memory; 0\.9 GB are free"):
        resolve(folder)


@pytest.mark.parametrize(
    ("module", "named"),
    [("onnxruntime", "onnxruntime"), ("ai_edge_litert", "ai-edge-litert"), ("executorch", "executorch")],
)
def test_a_missing_engine_fails_before_the_model_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, named: str
) -> None:
    real = importlib.util.find_spec
    hidden = {module, "tflite_runtime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a))
    with pytest.raises(MissingDependencyError, match=f"needs {named}"):
        resolve(folder / "gone")


def test_labelled_texts_are_read(classifier_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "eval.tsv").write_text("text\tlabel\nfine film\tgood\n")
    made = resolve(classifier_folder, eval=tmp_path / "eval.tsv")
    assert made.labelled == (Example(("fine film",), "good"),)
    assert len(made.golden) >= 256


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{default_texts('golden')[0]}\tgood", "The evaluation texts and the golden texts both hold"),
        (f"  {default_texts('golden')[1].upper()}\tgood", "both hold"),
        ("fine film\tsplendid", "line 2: The model knows no label 'splendid'"),
        ("fine film", "line 2 has 1 columns"),
    ],
)
def test_labelled_texts_that_prove_nothing_are_refused_before_minutes_are_spent(
    classifier_folder: Path, tmp_path: Path, row: str, message: str
) -> None:
    (tmp_path / "eval.tsv").write_text(f"text\tlabel\n{row}\n", encoding="utf-8")
    with pytest.raises(EdgellmError) as caught:
        resolve(classifier_folder, eval=tmp_path / "eval.tsv")
    assert message in str(caught.value)


def test_planning_loads_neither_torch_nor_an_engine(folder: Path) -> None:
    code = f"""
import sys
from edgellm.stages import plan
plan.resolve({str(folder)!r}, target="linux-arm64", formats=(), schemes=(), task=None, tokenizer=None, pooling=None,
    calibration=None, ranges=None, golden=None, eval=None, max_drop=None, min_agreement=0.99, seq_len=None, out=None,
    vocab_from=None, describe=dict)
print(sorted(sys.modules.keys() & {{"torch", "transformers", "onnx", "onnxruntime", "executorch", "ai_edge_litert"}}))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_correcting_biases_needs_texts_and_weights_that_are_rounded(folder: Path) -> None:
    asked = Tuning(correct_bias=True)
    assert resolve(folder, formats=["onnx"], schemes=["int8-weight-only"], tuning=asked).calibration
    with pytest.raises(
        UsageError, match="--correct-bias has no use for tflite in fp32 on linux-arm64: no weights become"
    ):
        resolve(folder, schemes=["fp32"], tuning=asked)
