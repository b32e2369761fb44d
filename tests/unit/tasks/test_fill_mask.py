"""fill-mask: what is read out of the graph's rows, refusals, and the module that keeps the head to the masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Reference

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import Facts, fill_mask, load_task
from edgellm.texts import default_texts
from tests.tiny import tiny_tokenizer

TASK = load_task("fill-mask")
FUZZ = settings(max_examples=100, deadline=None)
NAN = float("nan")


def save(tokenizer: Reference, folder: Path) -> Path:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")])
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def path(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(reference, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path, 32)


@pytest.fixture(scope="module")
def options(reference: Reference, path: Path) -> TaskOptions:
    return TaskOptions(mask="[MASK]", mask_id=reference.token_to_id("[MASK]"), pad_id=0)


def rows(*slots: list[tuple[float, int]]) -> Any:
    """Return outputs whose first rows are given, and whose others are rubbish, as in unused slots."""
    predictions = np.full((1, fill_mask.SLOTS, fill_mask.TOP, 2), 3.0, dtype=np.float32)
    for slot, row in enumerate(slots):
        predictions[0, slot, : len(row)] = row
    return {"predictions": predictions}


def decode(raw: Any, tokenizer: Tokenizer, options: TaskOptions, outputs: Any) -> Any:
    return TASK.decode(raw, TASK.encode(raw, tokenizer, options), [outputs], options, tokenizer)


def test_one_mask_gives_one_list(tokenizer: Tokenizer, options: TaskOptions, reference: Reference) -> None:
    red, boots = (reference.token_to_id(word) for word in ("red", "boots"))
    outputs = rows([(0.5, red), (0.25, boots)])
    value = decode({"text": "the [MASK] road", "top_k": 2}, tokenizer, options, outputs)
    assert value == [
        {"score": 0.5, "token": red, "token_str": "red", "sequence": "the red road"},
        {"score": 0.25, "token": boots, "token_str": "boots", "sequence": "the boots road"},
    ]
    assert list(value[0]) == ["score", "token", "token_str", "sequence"]
    assert [(type(item["score"]), type(item["token"])) for item in value] == [(float, int)] * 2
    assert len(decode("the [MASK] road", tokenizer, options, outputs)) == 5
    assert len(decode({"text": "the [MASK] road", "top_k": 16}, tokenizer, options, outputs)) == 16


def test_several_masks_give_lists_and_keep_special_tokens(
    tokenizer: Tokenizer, options: TaskOptions, reference: Reference
) -> None:
    red, boots = (reference.token_to_id(word) for word in ("red", "boots"))
    value = decode(
        {"text": "[MASK] the [MASK]", "top_k": 1}, tokenizer, options, rows([(0.5, red)], [(0.25, boots), (0.1, red)])
    )
    assert [[item["sequence"] for item in row] for row in value] == [
        ["[CLS] red the [MASK] [SEP]"],
        ["[CLS] [MASK] the boots [SEP]"],
    ]


def test_padding_is_left_out_of_sequences(tokenizer: Tokenizer, options: TaskOptions) -> None:
    value = decode({"text": "[MASK] the [MASK]", "top_k": 1}, tokenizer, options, rows([(0.5, 0)], [(0.5, 0)]))
    assert [row[0]["sequence"] for row in value] == ["[CLS] the [MASK] [SEP]", "[CLS] [MASK] the [SEP]"]
    assert value[0][0]["token_str"] == "[PAD]"


def test_spaces_before_punctuation_go_where_the_tokenizer_says_so(
    tokenizer: Tokenizer, options: TaskOptions, reference: Reference, tmp_path: Path
) -> None:
    dot = reference.token_to_id(".")
    outputs = rows([(0.5, dot)])
    raw = {"text": "the road [MASK]", "top_k": 1}
    tidy = TaskOptions(mask="[MASK]", mask_id=options.mask_id, clean_spaces=True)
    assert decode(raw, tokenizer, options, outputs)[0]["sequence"] == "the road ."
    assert decode(raw, tokenizer, tidy, outputs)[0]["sequence"] == "the road."
    bpe = Reference(models.BPE({"[UNK]": 0, "a": 1, ".": 2}, [], unk_token="[UNK]"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    ours = Tokenizer(save(bpe, tmp_path), 8)
    given = TaskOptions(mask="[MASK]", mask_id=bpe.token_to_id("[MASK]"), clean_spaces=True)
    value = decode({"text": "a [MASK]", "top_k": 1}, ours, given, rows([(0.5, 2)]))
    assert value[0]["sequence"] == "a ."  # transformers cleans no BPE either


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("the road", r"no \[MASK\], so nothing is missing"),
        ("", "nothing is missing"),
        ("[mask]", "nothing is missing"),
        ("[MASK] " * 5, "5 masks; 4 at most"),
        ("boots " * 40 + "[MASK]", "where the text is cut"),
        ("[MASK] " + "boots " * 40 + "[MASK]", "where the text is cut"),
        ("[MASK] " + "[MASK] boots " * 40, "where the text is cut"),
        ({"text": "[MASK]", "top_k": 17}, "top_k is 17; the graph gives the 16"),
        ({"text": "[MASK]", "top_k": 0}, "top_k is 0"),
        ({"text": "[MASK]", "targets": ["red"]}, "targets"),
        ({"top_k": 3}, "lacks text"),
        (7, "takes an object"),
    ],
)
def test_a_wrong_input_is_named(tokenizer: Tokenizer, options: TaskOptions, raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.encode(raw, tokenizer, options)


def test_a_mask_that_survives_the_cut_is_filled(tokenizer: Tokenizer, options: TaskOptions) -> None:
    (encoding,) = TASK.encode("the [MASK] " + "boots " * 40, tokenizer, options)
    assert encoding.truncated


def test_agreement_is_the_share_of_equal_best_tokens(options: TaskOptions) -> None:
    def item(token: int, score: float = 0.5) -> dict[str, object]:
        return {"score": score, "token": token, "token_str": "", "sequence": ""}

    assert TASK.agree([item(1), item(2)], [item(1), item(3)], options) == 1
    assert TASK.agree([item(1)], [item(2)], options) == 0
    assert TASK.agree([item(1)], [item(1, NAN)], options) == 0
    assert TASK.agree([[item(1)], [item(2)]], [[item(1)], [item(3)]], options) == 0.5


@FUZZ
@given(texts=st.lists(st.text() | st.sampled_from(default_texts("golden")), max_size=4))
def test_golden_and_bench_inputs_have_one_mask_that_survives(
    path: Path, options: TaskOptions, texts: list[str]
) -> None:
    limited = Tokenizer(path, fill_mask._GOLDEN_BYTES + 4)
    inputs = [*TASK.golden(texts, options), *(TASK.bench(text, options) for text in texts)]
    assert len(inputs) == 2 * len(texts)
    for raw in inputs:
        (encoding,) = TASK.encode(raw, limited, options)
        assert encoding.ids.count(options.mask_id) == 1


def test_the_middle_word_of_a_golden_text_is_missing(options: TaskOptions) -> None:
    texts = ["the red boots", "the red boots on", "boots", "", "[MASK] [MASK]", "x" * 30 + " boots y"]
    assert TASK.golden(texts, options) == [
        "the [MASK] boots", "the red [MASK] on", "[MASK] boots", "[MASK] .", "[MASK] .", "[MASK] boots y",
    ]  # fmt: skip
    own = default_texts("golden")
    assert len({str(raw) for raw in TASK.golden(own, options)}) == len(own) >= fill_mask.GOLDEN_CASES


def test_options_follow_the_tokenizer() -> None:
    named = Facts(
        {}, tokenizer={"mask_token": {"content": "<m>"}, "clean_up_tokenization_spaces": True}, vocabulary={"<m>": 9}
    )
    assert TASK.read_options(named) == TaskOptions(mask="<m>", mask_id=9, clean_spaces=True)
    old = Facts({}, vocabulary={"[MASK]": 4, "[PAD]": 0})
    assert TASK.read_options(old) == TaskOptions(mask="[MASK]", mask_id=4, pad_id=0)
    for facts in (Facts({}), Facts({}, tokenizer={"mask_token": "<m>"}, vocabulary={"[MASK]": 1})):
        with pytest.raises(InputError, match="no mask token"):
            TASK.read_options(facts)
    with pytest.raises(UsageError, match="--pooling belongs to feature-extraction"):
        TASK.read_options(Facts({}, pooling="mean", vocabulary={"[MASK]": 4}))


@pytest.mark.parametrize("size", [15, 2**24 + 1])
def test_a_vocabulary_that_the_output_cant_hold_is_refused(options: TaskOptions, size: int) -> None:
    assert TASK.output_spec({"vocab_size": 2**24}, options).shape == (1, 4, 16, 2)
    with pytest.raises(InputError, match="a vocabulary of"):
        TASK.output_spec({"vocab_size": size}, options)


def test_a_row_is_a_text_and_the_missing_token(options: TaskOptions) -> None:
    example = TASK.example({"text": "the [MASK] road", "label": " red "}, options)
    assert (example.inputs, example.gold) == (("the [MASK] road",), "red")
    values = [[{"score": 0.5, "token": 3, "token_str": " red", "sequence": ""}]]
    assert TASK.predict(values, options) == "red"
    assert TASK.metrics(["red", "red"], ["red", "boots"]) == {"accuracy": 0.5}
    assert TASK.right is not None
    assert TASK.right("red", "red")
    assert not TASK.right("red", "boots")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "the [MASK]"}, "The column label misses"),
        ({"text": "the", "label": "x"}, "0 times"),
        ({"text": "[MASK] [MASK]", "label": "x"}, "2 times"),
        ({"text": "[MASK]", "label": " "}, "label is empty"),
        ({"text": "[MASK]", "label": 3}, "label is a number"),
    ],
)
def test_a_wrong_row_is_named(options: TaskOptions, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.example(row, options)
