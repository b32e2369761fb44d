"""Labelled texts: every word's tag is learned where the task reads it, splits hold, and batches change no answer."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgellm.core.distill import DISTILLED
from edgellm.core.manifest import TaskOptions
from edgellm.core.training import IGNORED
from edgellm.distill.labelled import Texts, collate, encode, kind_of, read_parts, scored
from edgellm.errors import InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import Example, load_task, task_names
from edgellm.texts import default_texts
from tests.tiny import tiny_tokenizer
from tests.unit.stages.folders import read

LABELS = ("O", "B-X", "I-X")
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=9)
TAGGER = load_task("token-classification")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny_tokenizer().save(str(path))
    return path


@given(
    st.lists(
        st.tuples(WORDS, st.sampled_from(LABELS)),
        min_size=1, max_size=30,
    ),
    st.integers(6, 40),
)  # fmt: skip
@example(tagged=[("᭫0", LABELS[1]), ("red", LABELS[-1])], longest=6)
@settings(max_examples=60, deadline=None)
def test_what_is_learned_of_tags_is_what_the_task_reads(
    tokenizer: Path, tagged: list[tuple[str, str]], longest: int
) -> None:
    options = TaskOptions(labels=LABELS, overlap=longest // 2)
    example = TAGGER.example({"tokens": [word for word, _ in tagged], "tags": [tag for _, tag in tagged]}, options)
    reads = Tokenizer(tokenizer, longest)
    rows = encode(Texts((example,), True), TAGGER, options, reads, kind="tags", names=())
    # An encoder that answers with the labels that are learned is right about every word that has a token.
    encodings = TAGGER.encode(example.inputs[0], reads, options)
    logits = []
    for row in rows:
        labels = np.array(row["labels"])
        logits.append(
            {TAGGER.OUTPUT: np.eye(len(LABELS), dtype=np.float32)[None, np.where(labels == IGNORED, 0, labels)]}
        )
    found = TAGGER.predict([TAGGER.decode(example.inputs[0], encodings, logits, options, reads)], options)
    values = TAGGER.decode(example.inputs[0], encodings, logits, options, reads)
    for word, gold, got in zip(values, example.gold, found, strict=True):  # type: ignore[call-overload]
        assert got == gold or word["score"] == 0.0


def test_texts_without_tags_have_no_labels_that_count(tokenizer: Path) -> None:
    options = TaskOptions(labels=LABELS)
    rows = encode(
        Texts((Example(("the red boots",), None),), False), TAGGER, options, Tokenizer(tokenizer, 16), kind="tags",
        names=("token_type_ids",),
    )  # fmt: skip
    assert set(rows[0]["labels"]) == {IGNORED}  # type: ignore[call-overload]
    assert rows[0]["token_type_ids"] == [0] * len(rows[0]["input_ids"])  # type: ignore[arg-type]


def test_batches_are_padded_at_the_end() -> None:
    batch = collate(9)([{"input_ids": [1, 2, 3], "labels": [0, 1, 2]}, {"input_ids": [4], "labels": [1]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[0, 1, 2], [1, IGNORED, IGNORED]]
    several = collate(0)([{"input_ids": [1], "labels": [1.0, 0.0]}, {"input_ids": [2, 3], "labels": [math.nan] * 2}])
    assert several["labels"].dtype.is_floating_point
    assert several["labels"][0].tolist() == [1.0, 0.0]


def test_a_tenth_is_held_back_by_the_text_alone(tmp_path: Path) -> None:
    task, options = load_task("text-classification"), TaskOptions(labels=("a", "b"), scores="softmax")
    texts = [text for text in default_texts("golden") if text.strip() and text.isascii() and "\n" not in text]
    for name, order in (("one", texts), ("two", [*reversed(texts), *(f"  {text.upper()}" for text in texts)])):
        (tmp_path / f"{name}.txt").write_text("\n".join(order), encoding="utf-8")
    one, two = (read_parts(tmp_path / f"{name}.txt", None, None, task, options) for name in ("one", "two"))
    held = [{item.inputs[0] for item in part["dev"].examples} for part in (one, two)]
    assert 0.05 * len(texts) < len(held[0]) < 0.2 * len(texts)
    assert held[0] <= held[1]
    assert {str(text).lower() for text in held[1]} == {str(text).lower() for text in held[0]}
    assert sum(len(part.examples) for part in one.values()) == len(texts)


@pytest.mark.parametrize(
    ("kind", "options", "golds"),
    [
        ("label", TaskOptions(labels=("a", "b", "c"), scores="softmax"), ["c", "a", "b", "c"]),
        ("labels", TaskOptions(labels=("a", "b", "c"), scores="sigmoid"), [("a", "c"), (), ("b",), ("a",)]),
        ("number", TaskOptions(labels=("a",), scores="none"), [1.0, 2.5, -1.0, 3.0]),
    ],
)
def test_what_chooses_the_step_is_the_task_s_own_metric(
    tokenizer: Path, kind: str, options: TaskOptions, golds: list[object]
) -> None:
    class Predicted:
        predictions: np.ndarray  # type: ignore[type-arg]
        label_ids: np.ndarray  # type: ignore[type-arg]

    task, given = load_task("text-classification"), Predicted()
    texts = Texts(tuple(Example(("red boots",), gold) for gold in golds), True)
    rows = encode(texts, task, options, Tokenizer(tokenizer, 16), kind=kind, names=())
    given.label_ids = np.array([row["labels"] for row in rows])
    given.predictions = given.label_ids if kind != "labels" else given.label_ids * 8 - 4
    assert all(value == pytest.approx(1) for value in scored(task, options, kind)(given).values())


def test_tasks_that_are_not_distilled_say_so() -> None:
    for task in set(task_names()) - set(DISTILLED):
        with pytest.raises(UsageError, match=task):
            kind_of(task, TaskOptions())


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["classifier", "tagger", "encoder"])
def test_answers_in_batches_are_those_of_single_texts(model: Callable[[str], Path], kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns when it is imported
        from edgellm.distill.sides import read_side
    side = read_side(model(kind), "feature-extraction" if kind == "encoder" else None, 12)
    network = side.model().eval()
    texts = [Example((text,), None) for text in [*default_texts("golden")[:80], "a " * 60, ""]]
    together = side.answers(network, Texts(tuple(texts), False))
    for text, value in zip(texts, together, strict=True):
        (alone,) = side.answers(network, Texts((text,), False))
        assert side.task.agree(alone, value, side.options) == pytest.approx(1, abs=1e-5)
        if kind != "encoder":
            assert json.dumps(alone, default=float).count("score") == json.dumps(value, default=float).count("score")


def test_a_model_that_is_missing_is_refused(tmp_path: Path, model: Callable[[str], Path]) -> None:
    from edgellm.distill.sides import read_side

    with pytest.raises(InputError, match="There is no"):
        read_side(tmp_path / "none", None, 12)
    assert read_side(model("classifier"), None, 4000).tokenizer.max_tokens == read(model("classifier")).max_positions
