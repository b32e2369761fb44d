"""The task ctc-seq2seq, without a model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import EdgellmError, InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import Facts, load_task
from tests.sequences import letters_tokenizer

TASK = load_task("ctc-seq2seq")
CONFIG = {"pad_token_id": 0, "slots_per_token": 2, "vocab_size": 30}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    path.write_text(letters_tokenizer())
    return Tokenizer(path, 16)


def outputs(said: list[list[tuple[float, int]]], padding: int = 0) -> list[dict[str, np.ndarray]]:
    """Outputs of a pass that names these tokens, two slots for each token of the input."""
    flat = np.array(said, dtype=np.float32).reshape(1, len(said) // 2, -1)
    return [{"slots": np.concatenate([flat, np.ones((1, padding, flat.shape[2]), np.float32)], axis=1)}]


def options(alternatives: int = 1) -> TaskOptions:
    return TASK.read_options(Facts(CONFIG, alternatives=alternatives))


@pytest.mark.parametrize("padding", [0, 3])
def test_slots_collapse_to_a_text(tokenizer: Tokenizer, padding: int) -> None:
    a, b = (tokenizer.encode(letter).ids[0] for letter in "ab")
    encodings = TASK.encode("ab", tokenizer, options())
    said = outputs([[(0.9, a)], [(0.5, a)], [(1.0, 0)], [(0.8, b)]], padding)
    value = TASK.decode("ab", encodings, said, options(), tokenizer)
    assert value == {"text": "a b", "score": pytest.approx(0.9 * 0.5 * 0.8)}


def test_alternatives_are_likeliest_first(tokenizer: Tokenizer) -> None:
    a, b = (tokenizer.encode(letter).ids[0] for letter in "ab")
    raw = {"text": "a", "alternatives": 3}
    encodings = TASK.encode(raw, tokenizer, options(2))
    value = TASK.decode(raw, encodings, outputs([[(0.7, a), (0.3, b)], [(0.9, 0), (0.1, b)]]), options(2), tokenizer)
    assert [item["text"] for item in value["alternatives"]] == ["a", "b", "a b"]
    assert value["alternatives"][0] == {"text": value["text"], "score": value["score"]}
    assert value["score"] == pytest.approx(0.63)
    assert value["alternatives"][1]["score"] == pytest.approx(0.3 * 0.9 + 0.3 * 0.1)


def test_no_alternatives_where_one_token_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"names one token for each slot.*--alternatives 8"):
        TASK.encode({"text": "a", "alternatives": 2}, tokenizer, options())


@pytest.mark.parametrize(
    "raw", [3, None, {"texts": "a"}, {"text": 3}, {"text": "a", "alternatives": 0}, {"alternatives": 1}]
)
def test_what_is_no_input_is_refused(tokenizer: Tokenizer, raw: object) -> None:
    with pytest.raises(InputError):
        TASK.encode(raw, tokenizer, options(2))


def test_slots_that_give_nothing_a_probability_have_no_alternatives(tokenizer: Tokenizer) -> None:
    raw = {"text": "a", "alternatives": 3}
    encodings = TASK.encode(raw, tokenizer, options(2))
    value = TASK.decode(raw, encodings, outputs([[(0.0, 5), (0.0, 6)]] * 2), options(2), tokenizer)
    assert (value["score"], value["alternatives"]) == (0.0, [])


@pytest.mark.parametrize("chance", [math.nan, math.inf])
def test_an_output_that_is_no_number_agrees_with_nothing(tokenizer: Tokenizer, chance: float) -> None:
    encodings = TASK.encode("a", tokenizer, options())
    value = TASK.decode("a", encodings, outputs([[(chance, 0)], [(1.0, 0)]]), options(), tokenizer)
    assert TASK.agree({"text": "", "score": 1.0}, value, options()) == 0.0
    raw = {"text": "a", "alternatives": 2}
    said = outputs([[(0.7, 5), (chance, 6)], [(1.0, 0), (0.0, 5)]])
    value = TASK.decode(raw, encodings, said, options(2), tokenizer)
    assert TASK.agree({"text": "", "score": 1.0}, value, options(2)) == 0.0


@pytest.mark.parametrize(
    ("source", "other", "agreement"),
    [("A B C D", "A B C D", 1.0), ("A B C D", "A B D", 0.75), ("A", "B C D", 0.0), ("", "", 1.0), ("", "A", 0.0)],
)
def test_agreement_counts_edits(source: str, other: str, agreement: float) -> None:
    assert TASK.agree({"text": source, "score": 0.1}, {"text": other, "score": 0.9}, options()) == agreement


def test_the_nearest_of_several_right_texts_counts() -> None:
    rows = [{"text": "a", "target": ["X Y", "Z  W"]}, {"text": "b", "target": "X X X X"}]
    examples = [TASK.example(row, options()) for row in rows]
    golds = [example.gold for example in examples]
    assert golds == [("X Y", "Z W"), ("X X X X",)]
    said = ["Z W", "X X X"]
    found = TASK.metrics(golds, said)
    assert found["exact match"] == 0.5
    assert found["token accuracy"] == pytest.approx(1 - 1 / 6)
    assert TASK.metrics(golds, ["X Y", "X X X X"]) == pytest.approx(dict.fromkeys(found, 1.0))
    assert TASK.right is not None
    assert [TASK.right(gold, text) for gold, text in zip(golds, said, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("config", "alternatives", "error", "said"),
    [
        ({"pad_token_id": 0}, 1, InputError, "edgellm distill"),
        ({"slots_per_token": 2}, 1, InputError, "edgellm distill"),
        ({"pad_token_id": 0, "slots_per_token": 0}, 1, InputError, "edgellm distill"),
        (CONFIG, 0, UsageError, "--alternatives is 0"),
        (CONFIG, 17, UsageError, "--alternatives is 17"),
    ],
)
def test_a_model_that_is_none_is_refused(
    config: dict[str, object], alternatives: int, error: type[EdgellmError], said: str
) -> None:
    with pytest.raises(error, match=said):
        TASK.read_options(Facts(config, alternatives=alternatives))


def test_the_graph_names_tokens_for_each_slot() -> None:
    assert TASK.output_spec(CONFIG, options()).shape == (1, "tokens", 4)
    assert TASK.output_spec(CONFIG, options(8)).shape == (1, "tokens", 32)
    with pytest.raises(InputError, match="vocabulary of 5"):
        TASK.output_spec({**CONFIG, "vocab_size": 5}, options(8))


def test_metrics_read_every_script() -> None:
    golds = [("ʃ ɪ p",), ("привет мир",)]
    assert TASK.metrics(golds, ["ʃ ɪ p", "привет мир"])["ROUGE-L"] == 1.0
    assert TASK.metrics(golds[:1], ["ʒ ʊ t"])["ROUGE-L"] == 0.0
