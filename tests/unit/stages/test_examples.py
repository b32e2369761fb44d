"""Examples: what is wrong with a row is told with its line, in every kind of labelled data."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, MissingDependencyError
from edgellm.stages.examples import read_examples
from edgellm.tasks import Example, load_task

OPTIONS = TaskOptions(labels=("bad", "good"), scores="softmax")
TASK = load_task("text-classification")
KINDS = {
    "tsv": "text\tlabel\na film\tgood\n\n{}\t{}\n",
    "csv": 'text,label\r\n"a film",good\r\n\r\n{},{}\r\n',
    "jsonl": '\n{{"text": "a film", "label": "good"}}\n\n{{"text": "{}", "label": "{}"}}\n',
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_examples(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"eval.{kind}"
    path.write_text(KINDS[kind].format("a lamp", "bad"), newline="")
    assert read_examples(path, TASK, OPTIONS) == [Example(("a film",), "good"), Example(("a lamp",), "bad")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a lamp", "splendid"), "line 4: The model knows no label 'splendid'"),
        ((" ", "bad"), "line 4 has an empty text."),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_its_line(
    tmp_path: Path, kind: str, row: tuple[str, str], message: str
) -> None:
    path = tmp_path / f"eval.{kind}"
    path.write_text(KINDS[kind].format(*row), newline="")
    with pytest.raises(InputError) as caught:
        read_examples(path, TASK, OPTIONS)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_saved_dataset_names_the_row(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["a film", ""], "label": [1, 0]}, features=kinds).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="row 2 has an empty text"):
        read_examples(tmp_path / "saved", TASK, OPTIONS)


def test_labels_of_two_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    rows = [{"text": "a", "text_pair": "b", "score": 0.5}]
    rows.append({"source_sentence": "a", "sentences": ["b", "c"], "relevance": [0, 1]})  # type: ignore[dict-item]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="line 2 is of another kind than the first"):
        read_examples(path, load_task("sentence-similarity"), TaskOptions(labels=("score",), scores="sigmoid"))


def test_a_library_that_scores_is_asked_for_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "eval.tsv"
    path.write_text(KINDS["tsv"].format("a lamp", "bad"))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "scipy" else real(name, *a))
    with pytest.raises(MissingDependencyError, match=r"needs scipy\. Install it with: pip install 'edgellm\[eval\]'"):
        read_examples(path, TASK, OPTIONS)
