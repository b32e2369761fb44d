"""question-answering: spans, windows and scores as the transformers pipeline gives them, from logits made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.source import default_model
from edgellm.tasks import Encoding, load_task
from tests.tiny import tiny_tokenizer

TASK = load_task("question-answering")
OPTIONS = TaskOptions(overlap=8)
RAW = {"question": "Where?", "context": "the red boots by the river, the chips by the road"}
NAN = float("nan")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    return Tokenizer(path, 24)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(default_model() / "tokenizer.json", 128)


def pointed(
    encodings: list[Encoding], start: dict[int, float], end: dict[int, float], nothing: float = 0.0
) -> list[Any]:
    """Return outputs whose logits are 0 but at the tokens of the context that start, or end, at given characters."""
    outputs = []
    for encoding in encodings:
        logits = np.zeros((1, len(encoding.ids), 2), dtype=np.float32)
        logits[0, 0] = nothing
        for i, (place, text) in enumerate(zip(encoding.offsets, encoding.texts, strict=True)):
            if text == 1:
                logits[0, i] = start.get(place[0], 0.0), end.get(place[1], 0.0)
        outputs.append({"logits": logits})
    return outputs


def answer(
    raw: dict[str, Any], tokenizer: Tokenizer, start: dict[int, float], end: dict[int, float], **more: Any
) -> Any:
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    return TASK.decode(raw, encodings, pointed(encodings, start, end, **more), OPTIONS, tokenizer)


def test_the_answer_is_the_span_from_the_likeliest_start_to_the_likeliest_end(tokenizer: Tokenizer) -> None:
    value = answer(RAW, tokenizer, {4: 20.0}, {26: 20.0})
    assert list(value) == ["score", "start", "end", "answer"]
    assert [type(item) for item in value.values()] == [float, int, int, str]
    assert value == {"score": pytest.approx(1, abs=1e-6), "start": 4, "end": 26, "answer": "red boots by the river"}


def test_scores_are_the_product_of_two_softmaxes_over_the_context_and_the_first_token(tokenizer: Tokenizer) -> None:
    raw = {"question": "Who?", "context": "boots", "top_k": 5}
    outputs = [{"logits": np.array([[[1, 0], [99, 99], [99, 99], [99, 99], [99, 99], [99, 99], [2, 3], [9, 9]]])}]
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    assert tuple(encodings[0].texts) == (None, 0, 0, 0, 0, None, 1, None)
    value = TASK.decode(raw, encodings, outputs, OPTIONS, tokenizer)  # type: ignore[arg-type]
    expected = 1 / (1 + math.exp(-1)) * (1 / (1 + math.exp(-3)))
    assert value == {"score": pytest.approx(expected), "start": 0, "end": 5, "answer": "boots"}


def test_no_answer_takes_part_only_when_asked_for(tokenizer: Tokenizer) -> None:
    assert answer(RAW, tokenizer, {4: 5.0}, {7: 5.0}, nothing=20.0)["answer"] == "red"
    value = answer({**RAW, "handle_impossible_answer": True}, tokenizer, {4: 5.0}, {7: 5.0}, nothing=20.0)
    assert value == {"score": pytest.approx(1, abs=1e-4), "start": 0, "end": 0, "answer": ""}
    value = answer({**RAW, "handle_impossible_answer": True}, tokenizer, {4: 20.0}, {7: 20.0}, nothing=5.0)
    assert value["answer"] == "red"


def test_no_answer_counts_as_its_least_likely_window_has_it(tokenizer: Tokenizer) -> None:
    raw = {"question": "Who?", "context": "boots " * 30 + "kettle", "handle_impossible_answer": True}
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    assert len(encodings) > 2
    outputs = pointed(encodings, {180: 30.0}, {186: 30.0}, nothing=9.0)
    assert TASK.decode(raw, encodings, outputs, OPTIONS, tokenizer)["answer"] == "kettle"  # type: ignore[index]


def test_several_answers_come_best_first(tokenizer: Tokenizer) -> None:
    value = answer(
        {**RAW, "top_k": 3, "max_answer_len": 1}, tokenizer, {4: 5.0, 8: 4.0, 32: 3.0}, {7: 5.0, 13: 4.0, 37: 3.0}
    )
    assert [item["answer"] for item in value] == ["red", "boots", "chips"]
    assert value == sorted(value, key=lambda item: -item["score"])


def test_answers_have_at_most_the_tokens_that_were_allowed(tokenizer: Tokenizer) -> None:
    start, end = {4: 9.0, 17: 5.0}, {26: 9.0}
    assert answer({**RAW, "max_answer_len": 5}, tokenizer, start, end)["answer"] == "red boots by the river"
    assert answer({**RAW, "max_answer_len": 4}, tokenizer, start, end)["answer"] == "the river"
    assert answer({**RAW, "max_answer_len": 10**9}, tokenizer, start, end)["answer"] == "red boots by the river"


def test_spans_grow_to_whole_words_unless_told_not_to(tokenizer: Tokenizer) -> None:
    raw = {"question": "Who?", "context": "the zebra: gone"}  # letters of unknown words are tokens
    assert answer(raw, tokenizer, {6: 20.0}, {8: 20.0})["answer"] == "zebra"
    value = answer({**raw, "align_to_words": False}, tokenizer, {6: 20.0}, {8: 20.0})
    assert value == {"score": pytest.approx(1, abs=1e-4), "start": 6, "end": 8, "answer": "br"}


def test_answers_that_read_the_same_are_one_whose_scores_add_up(tokenizer: Tokenizer) -> None:
    raw = {"question": "Who?", "context": "The KETTLE and the kettle.", "top_k": 2, "max_answer_len": 1}
    value = answer(raw, tokenizer, {4: 9.0, 19: 8.0}, {10: 9.0, 25: 8.0})
    assert value[0] == {"score": pytest.approx(0.6064, abs=1e-3), "start": 4, "end": 10, "answer": "KETTLE"}


def test_an_answer_in_two_windows_counts_twice_and_in_the_last_is_found(tokenizer: Tokenizer) -> None:
    context = "boots " * 20 + "kettle " + "chips " * 10 + "river"
    raw = {"question": "Who?", "context": context}
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    assert sum((120, 126) in encoding.offsets for encoding in encodings) == 2
    assert answer(raw, tokenizer, {120: 30.0}, {126: 30.0}) == {
        "score": pytest.approx(2, abs=1e-4), "start": 120, "end": 126, "answer": "kettle",
    }  # fmt: skip
    assert answer(raw, tokenizer, {187: 30.0}, {192: 30.0})["answer"] == "river"


def test_of_a_word_that_a_window_cuts_the_part_inside_is_the_answer(tokenizer: Tokenizer) -> None:
    raw = {"question": "Who?", "context": "q" * 40}
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    value = answer(raw, tokenizer, {0: 30.0}, {3: 30.0})
    assert (value["start"], value["end"]) == (0, encodings[0].texts.count(1))


def test_offsets_are_characters(minilm: Tokenizer) -> None:
    context = "👩🏽\u200d🚀🐟 ate a cafe\u0301 \U0001d4d0 深圳"
    for text in ("ate", "cafe", "深"):  # the accent of its own belongs to no token, so the pipeline leaves it out too
        place = context.index(text)
        value = answer({"question": "What?", "context": context}, minilm, {place: 20.0}, {place + len(text): 20.0})
        assert (value["answer"], context[value["start"] : value["end"]]) == (text, text)


def test_the_answer_never_lies_in_the_question(minilm: Tokenizer) -> None:
    raw = {"question": "What is [CLS] or [SEP]?", "context": "A token.", "top_k": 30}
    encodings = TASK.encode(raw, minilm, OPTIONS)
    ids = encodings[0].ids
    assert ids.count(ids[0]) == 2, "the question holds the token of no answer"
    outputs = [{"logits": np.where(np.array(ids)[None, :, None] == ids[0], 50.0, 0.0).repeat(2, axis=2)}]
    value: Any = TASK.decode(raw, encodings, outputs, OPTIONS, minilm)  # type: ignore[arg-type]
    assert {item["answer"] for item in value} == {"A", "A token", "A token.", "token", "token.", "."}


def test_without_a_token_for_no_answer_it_is_never_likely(tmp_path: Path) -> None:
    plain = tiny_tokenizer()
    data = json.loads(plain.to_str())
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    raw = {"question": "where", "context": "the river", "handle_impossible_answer": True, "top_k": 9}
    value = answer(raw, Tokenizer(tmp_path / "tokenizer.json", 16), {}, {})
    assert [item["answer"] for item in value] == ["the", "the river", "river", ""]
    assert value[-1]["score"] == 0


@pytest.mark.parametrize("logit", [NAN, float("inf"), float("-inf")])
def test_ruined_logits_give_no_answer(tokenizer: Tokenizer, logit: float) -> None:
    raw = {**RAW, "handle_impossible_answer": True}
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    outputs: Any = [{"logits": np.full((1, len(e.ids), 2), logit, dtype=np.float32)} for e in encodings]
    assert TASK.decode(raw, encodings, outputs, OPTIONS, tokenizer) == []
    assert TASK.agree({"answer": "x", "start": 0, "end": 1}, [], OPTIONS) == 0
    assert TASK.agree([], [], OPTIONS) == 1


WORDS = st.lists(
    st.sampled_from(["boots", "Boots", "river", "x", "fish!", "naïve", "🐟", "12", "zq"]), min_size=1, max_size=40
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    words=WORDS, seed=st.integers(0, 2**20), spread=st.sampled_from([0.1, 3.0, 30.0]), top_k=st.sampled_from([1, 2, 20]),
    longest=st.sampled_from([1, 3, 15, 100]), align=st.booleans(), impossible=st.booleans(),
)  # fmt: skip
def test_any_logits_give_what_looking_at_every_span_gives(
    tokenizer: Tokenizer,
    words: list[str],
    seed: int,
    spread: float,
    top_k: int,
    longest: int,
    align: bool,
    impossible: bool,
) -> None:
    raw = {
        "question": "Where?", "context": " ".join(words), "top_k": top_k, "max_answer_len": longest,
        "align_to_words": align, "handle_impossible_answer": impossible,
    }  # fmt: skip
    encodings = TASK.encode(raw, tokenizer, OPTIONS)
    rng = np.random.default_rng(seed)
    outputs: Any = [{"logits": rng.normal(0, spread, (1, len(e.ids), 2)).astype(np.float32)} for e in encodings]
    value: Any = TASK.decode(raw, encodings, outputs, OPTIONS, tokenizer)
    found = value if isinstance(value, list) else [value]
    expected = every_span(raw, encodings, outputs)
    assert isinstance(value, dict) == (len(expected) == 1)
    assert [item["answer"] for item in found] == [item["answer"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], rel=1e-9)
    for item in found:
        assert 0 <= item["start"] <= item["end"] <= len(raw["context"])  # type: ignore[arg-type]
        assert item["answer"] == raw["context"][item["start"] : item["end"]]  # type: ignore[index]
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)


def every_span(raw: dict[str, Any], encodings: list[Encoding], outputs: Any) -> list[dict[str, Any]]:
    """Return the answers by going through all pairs of tokens, one by one."""
    answers: list[dict[str, Any]] = []
    impossible = math.inf
    for encoding, output in zip(encodings, outputs, strict=True):
        own = [i for i, text in enumerate(encoding.texts) if text == 1]
        raised = np.exp(output["logits"][0].astype(np.float64) - output["logits"].max())
        likely = raised / raised[[0, *own]].sum(axis=0)
        impossible = min(impossible, float(likely[0].prod()))
        spans = [(likely[i, 0] * likely[j, 1], i, j) for i in own for j in own if i <= j < i + raw["max_answer_len"]]
        spans.sort(key=lambda item: -item[0])
        for score, i, j in spans[: raw["top_k"] * 2 + 10 if raw["align_to_words"] else raw["top_k"]]:
            start, end = encoding.offsets[i][0], encoding.offsets[j][1]
            if raw["align_to_words"]:
                start = min(encoding.offsets[k][0] for k in own if encoding.words[k] == encoding.words[i])
                end = max(encoding.offsets[k][1] for k in own if encoding.words[k] == encoding.words[j])
            text = raw["context"][start:end]
            same = [item for item in answers if item["answer"].lower() == text.lower()]
            if same:
                same[0]["score"] += score
            else:
                answers.append({"score": score, "start": start, "end": end, "answer": text})
    if raw["handle_impossible_answer"]:
        answers.append({"score": impossible, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda item: -item["score"])[: raw["top_k"]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("Where?", 'takes an object, {"question": ..., "context": ...}, not a text'),
        ({"question": "Where?"}, "lacks context"),
        ({**RAW, "question": ""}, "question is empty"),
        ({**RAW, "context": " \n"}, "context is empty"),
        ({**RAW, "context": "\x00\x01\u200b"}, "context holds nothing that the tokenizer reads"),
        ({**RAW, "context": ["a"]}, "context is a list; it has to be a text"),
        ({**RAW, "question": None}, "question is nothing; it has to be a text"),
        ({**RAW, "topk": 3}, "Did you mean 'top_k'"),
        ({**RAW, "doc_stride": 3}, "No argument 'doc_stride'"),
        ({**RAW, "top_k": 0}, "top_k is 0; it has to be a whole number, 1 or more"),
        ({**RAW, "top_k": True}, "top_k is True"),
        ({**RAW, "max_answer_len": 1.5}, "max_answer_len is 1.5"),
        ({**RAW, "max_question_len": -1}, "max_question_len is -1"),
        ({**RAW, "align_to_words": 1}, "align_to_words is 1; it has to be true or false"),
        ({**RAW, "handle_impossible_answer": "no"}, "handle_impossible_answer is 'no'"),
        ({**RAW, "question": "a\ud800"}, "half of a surrogate pair"),
        ({**RAW, "context": "a\udfff"}, "half of a surrogate pair"),
        ({**RAW, "question": "boots " * 30}, "leaves no room for the second"),
    ],
)
def test_wrong_inputs_are_named(tokenizer: Tokenizer, raw: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TASK.encode(raw, tokenizer, OPTIONS)
    assert message in str(caught.value)


def test_a_long_question_is_cut_and_said_to_be(minilm: Tokenizer) -> None:
    raw = {"question": "why " * 65, "context": "Because of the unbelievable river."}
    cut = TASK.encode(raw, minilm, OPTIONS)[0]
    assert (cut.texts.count(0), cut.truncated) == (64, True)
    whole = TASK.encode({**raw, "max_question_len": 65}, minilm, OPTIONS)[0]
    assert (whole.texts.count(0), whole.truncated) == (65, False)
    short = TASK.encode({**raw, "question": "why unbelievably so", "max_question_len": 3}, minilm, OPTIONS)[0]
    assert (short.texts.count(0), short.truncated) == (3, True)


@pytest.mark.parametrize("longest", [1, 2, 3, 5, 8])
def test_a_question_is_cut_between_characters(tmp_path: Path, longest: int) -> None:
    from tokenizers import Tokenizer as Raw
    from tokenizers import models, pre_tokenizers

    alphabet = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    data = Raw(models.BPE(alphabet, []))
    data.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (tmp_path / "tokenizer.json").write_text(data.to_str(), encoding="utf-8")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 64)
    raw = {"question": "a🐟é?", "context": "fish", "max_question_len": longest}  # 1, 4, 2 and 1 bytes
    encoding = TASK.encode(raw, tokenizer, OPTIONS)[0]
    assert encoding.texts.count(0) == {1: 1, 2: 1, 3: 1, 5: 5, 8: 8}[longest]
    assert encoding.truncated == (longest < 8)
    with pytest.raises(InputError, match="leaves nothing of the question"):
        TASK.encode({**raw, "question": "🐟", "max_question_len": 3}, tokenizer, OPTIONS)
