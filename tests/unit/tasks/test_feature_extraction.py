"""feature-extraction: the cosine that the gate is made of, and what a model's own files ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, UsageError
from edgellm.tasks import Example, Facts, load_task, task_names

TASK = load_task("feature-extraction")
OPTIONS = TaskOptions(pooling="mean")
NAN, INF = float("nan"), float("inf")


def cosine(a: object, b: object) -> float:
    return TASK.agree(a, np.array(b, dtype=np.float32), OPTIONS)


@pytest.mark.parametrize(
    ("a", "b", "score"),
    [
        ([1, 0], [2, 0], 1),
        ([1, 0], [0, 1], 0),
        ([1, 0], [-1, 0], -1),
        ([1, 1], [1, 0], 0.5**0.5),
        ([3e38, 0], [3e38, 0], 1),  # squares overflow float32
        ([1e-30, 0], [1e-30, 0], 1),  # and underflow it
        ([[1, 0], [1, 0]], [[1, 0], [0, 1]], 0.5),  # one vector per token: the mean over tokens
    ],
)
def test_agreement_is_a_cosine(a: object, b: object, score: float) -> None:
    assert cosine(a, b) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("broken", [[0, 0], [NAN, 1], [NAN, NAN], [INF, 1], [-INF, INF]])
def test_a_vector_that_is_zero_or_no_number_agrees_with_nothing(broken: list[float]) -> None:
    assert cosine([1, 2], broken) == 0
    assert cosine(broken, broken) == 0


def test_one_broken_token_counts_as_0_among_the_others() -> None:
    assert cosine([[1, 0], [1, 0]], [[1, 0], [NAN, 0]]) == 0.5


def test_decode_gives_the_vector_as_float32() -> None:
    value = TASK.decode("x", [], [{"embedding": np.array([[1, 2, 3]], np.float32)}], OPTIONS, None)  # type: ignore[arg-type]
    assert isinstance(value, np.ndarray)
    assert (value.dtype, value.tolist()) == (np.float32, [1, 2, 3])


def sentence_transformers(folder: Path, pooling: dict[str, Any] | None, *kinds: str) -> Path:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, kind in enumerate(kinds, 1):
        modules.append(
            {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        )
        (folder / f"{i}_{kind}").mkdir()
        if kind == "Pooling" and pooling is not None:
            (folder / f"{i}_{kind}" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


OLD = {
    "word_embedding_dimension": 8,
    "pooling_mode_cls_token": False,
    "pooling_mode_max_tokens": False,
    "include_prompt": True,
}


@pytest.mark.parametrize(
    ("config", "kinds", "pooling", "normalize"),
    [
        ({**OLD, "pooling_mode_mean_tokens": True}, ("Pooling", "Normalize"), "mean", True),
        ({**OLD, "pooling_mode_mean_tokens": True}, ("Pooling",), "mean", False),
        ({**OLD, "pooling_mode_cls_token": True}, ("Pooling", "Normalize"), "cls", True),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, ("Pooling",), "cls", False),
    ],
)
def test_the_model_s_own_files_decide(
    tmp_path: Path, config: dict[str, Any], kinds: tuple[str, ...], pooling: str, normalize: bool
) -> None:
    folder = sentence_transformers(tmp_path, config, *kinds)
    assert TASK.read_options(Facts({}, folder)) == TaskOptions(pooling=pooling, normalize=normalize)


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_such_files_it_is_the_plain_mean(tmp_path: Path, folder: str | None) -> None:
    assert TASK.read_options(Facts({}, tmp_path if folder else None)) == TaskOptions(pooling="mean")


@pytest.mark.parametrize(("asked", "normalize"), [("cls", True), ("mean", True), ("none", False)])
def test_pooling_overrides_the_files_and_none_is_never_normalized(tmp_path: Path, asked: str, normalize: bool) -> None:
    folder = sentence_transformers(tmp_path, {**OLD, "pooling_mode_max_tokens": True}, "Pooling", "Normalize")
    assert TASK.read_options(Facts({}, folder, pooling=asked)) == TaskOptions(pooling=asked, normalize=normalize)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**OLD, "pooling_mode_max_tokens": True}, "max"),
        ({**OLD, "pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({**OLD, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, r"cls \+ mean|mean \+ cls"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        (OLD, "no"),
    ],
)
def test_other_poolings_are_refused_with_the_way_out(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    folder = sentence_transformers(tmp_path, config, "Pooling")
    with pytest.raises(InputError, match=f"asks for ({named}) pooling; edgellm builds mean and cls. Choose another"):
        TASK.read_options(Facts({}, folder))


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm", "WordWeights"])
@pytest.mark.parametrize("asked", [None, "mean"])
def test_a_module_that_would_be_dropped_is_refused(tmp_path: Path, kind: str, asked: str | None) -> None:
    folder = sentence_transformers(tmp_path, {**OLD, "pooling_mode_mean_tokens": True}, "Pooling", kind)
    with pytest.raises(InputError, match=f"asks for a {kind} module"):
        TASK.read_options(Facts({}, folder, pooling=asked))


@pytest.mark.parametrize("content", ["", "{", "{}", "5", '["x"]', '[{"type": "a.Pooling"}]', "\\ud800", "null"])
def test_a_modules_json_that_is_none_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(InputError):
        TASK.read_options(Facts({}, tmp_path))


def test_a_pooling_module_without_its_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        TASK.read_options(Facts({}, sentence_transformers(tmp_path, None, "Pooling")))


def test_an_unknown_pooling_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"No pooling 'max'. Choices: mean, cls, none"):
        TASK.read_options(Facts({}, None, pooling="max"))


@pytest.mark.parametrize(
    ("config", "pooling", "shape"),
    [({"hidden_size": 8}, "mean", (1, 8)), ({"dim": 8}, "cls", (1, 8)), ({"d_model": 8}, "none", (1, "tokens", 8))],
)
def test_the_output_s_shape(config: dict[str, object], pooling: str, shape: tuple[int | str, ...]) -> None:
    assert TASK.output_spec(config, TaskOptions(pooling=pooling)).shape == shape


def test_a_configuration_without_a_width_is_refused() -> None:
    with pytest.raises(InputError, match="no hidden_size"):
        TASK.output_spec({"hidden_size": "8"}, OPTIONS)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"No task 'text-clasification'. Did you mean 'text-classification'\?"):
        load_task("text-clasification")
    assert task_names() == sorted(task_names())


ROW = {"text": "a kettle", "text_pair": "a pot", "score": "0.5"}


def test_an_example_is_two_texts_and_a_number() -> None:
    assert TASK.example(ROW, OPTIONS) == Example(("a kettle", "a pot"), 0.5)
    assert TASK.predict([[1.0, 0.0], [1.0, 1.0]], OPTIONS) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ROW, "score": "near"}, "score is 'near'; it has to be a number"),
        ({**ROW, "score": NAN}, "score is 'nan'"),
        ({**ROW, "score": True}, "score is 'True'"),
        ({**ROW, "text": 5}, "text is a number; it has to be a text"),
        ({"text": "a", "label": "b"}, "The column text_pair misses; there is label, text"),
    ],
)
def test_other_rows_are_refused(row: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TASK.example(row, OPTIONS)


def test_vectors_of_tokens_can_t_be_scored() -> None:
    with pytest.raises(InputError, match="no similarity"):
        TASK.example(ROW, TaskOptions(pooling="none"))


def test_metrics_are_correlations() -> None:
    found = TASK.metrics([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.9])
    assert list(found) == ["spearman", "pearson"]
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(float(np.corrcoef([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.9])[0, 1]))
