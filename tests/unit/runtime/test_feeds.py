"""Feeds: nothing reaches an engine that could make it read outside its tables, and padding changes no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgellm.core.signature import InputSpec, OutputSpec, Signature
from edgellm.errors import InputError
from edgellm.runtime.session import check_feeds, pad, to_feeds
from edgellm.tasks import Encoding

BOUND, LIMIT, PAD = 10, 6, 3
INPUTS = (
    InputSpec("input_ids", "int64", (1, "tokens"), BOUND, PAD),
    InputSpec("attention_mask", "int64", (1, "tokens"), 2, 0),
)
SIGNATURE = Signature(INPUTS, (OutputSpec("y", "float32", (1, 2)),))


def feeds(ids: object = ((1, 2, 3),), mask: object = ((1, 1, 1),), dtype: Any = np.int64) -> dict[str, Any]:
    return {"input_ids": np.array(ids, dtype=dtype), "attention_mask": np.array(mask, dtype=np.int64)}


def test_good_feeds_pass_with_their_length() -> None:
    assert check_feeds(feeds(), SIGNATURE, LIMIT) == 3
    assert check_feeds(feeds([[0, BOUND - 1]], [[0, 1]]), SIGNATURE, 2) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (feeds([[1, 2, BOUND]]), r"input_ids holds 10; 0 to 9 is valid"),
        (feeds([[1, -1, 2]]), r"input_ids holds -1; 0 to 9 is valid"),
        (feeds([[1, -1, BOUND]]), r"input_ids holds -1"),
        (feeds([[1, 2, 2**62]]), r"input_ids holds 4611686018427387904"),
        (feeds(mask=[[1, 1, 2]]), r"attention_mask holds 2; 0 to 1 is valid"),
        (feeds([[1] * 7], [[1] * 7]), r"7 tokens exceed the bundle's 6"),
        (feeds([[1, 2]]), r"attention_mask has 3 tokens, input_ids has 2"),
        (feeds([1, 2, 3]), r"input_ids has shape \[3\]; \[1, tokens\] is needed"),
        (feeds([[1, 2, 3]] * 2), r"input_ids has shape \[2, 3\]"),
        (feeds([[[1, 2, 3]]]), r"input_ids has shape \[1, 1, 3\]"),
        (feeds([[]], [[]]), r"input_ids has shape \[1, 0\]"),
        (feeds(dtype=np.int32), r"input_ids has dtype int32; int64 is needed"),
        (feeds(dtype=np.float32), r"input_ids has dtype float32"),
        (feeds(dtype=np.uint64), r"input_ids has dtype uint64"),
        (feeds(dtype=object), r"input_ids has dtype object"),
        ({}, r"takes input_ids, attention_mask, not nothing"),
        ({"input_ids": np.ones((1, 3), np.int64)}, r"not input_ids\."),
        ({**feeds(), "token_type_ids": np.zeros((1, 3), np.int64)}, r"not attention_mask, input_ids, token_type_ids"),
    ],
)
def test_bad_feeds_are_refused_and_named(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_feeds(bad, SIGNATURE, LIMIT)


ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.int64, np.int32, np.float64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8),
)
GOOD = st.integers(1, LIMIT).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            "input_ids": hnp.arrays(np.int64, (1, n), elements=st.integers(0, BOUND - 1)),
            "attention_mask": hnp.arrays(np.int64, (1, n), elements=st.integers(0, 1)),
        }
    )
)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({"input_ids": ARRAYS, "attention_mask": ARRAYS}) | GOOD)
def test_what_passes_is_safe(arrays: dict[str, Any]) -> None:
    try:
        tokens = check_feeds(arrays, SIGNATURE, LIMIT)
    except InputError:
        return
    assert 1 <= tokens <= LIMIT
    for spec in INPUTS:
        array = arrays[spec.name]
        assert (array.dtype, array.shape) == (np.int64, (1, tokens))
        assert ((array >= 0) & (array < spec.bound)).all()


@settings(max_examples=60, deadline=None)
@given(GOOD, st.integers(0, 5))
def test_padding_goes_to_the_end_with_each_input_s_own_value(arrays: dict[str, Any], more: int) -> None:
    tokens = arrays["input_ids"].shape[1]
    padded = pad(arrays, SIGNATURE, tokens + more)
    for spec in INPUTS:
        assert padded[spec.name].dtype == np.int64
        expected = np.concatenate([arrays[spec.name][0], [spec.pad] * more])
        np.testing.assert_array_equal(padded[spec.name], expected[None].astype(np.int64))
    assert check_feeds(padded, SIGNATURE, tokens + more) == tokens + more


def test_feeds_hold_what_the_signature_asks_for_in_its_order() -> None:
    types = InputSpec("token_type_ids", "int64", (1, "tokens"), 2, 0)
    signature = Signature((types, *INPUTS), SIGNATURE.outputs)
    made = to_feeds(Encoding((5, 6, 7), (0, 0, 1), False), signature)
    assert {name: array.tolist() for name, array in made.items()} == {
        "token_type_ids": [[0, 0, 1]],
        "input_ids": [[5, 6, 7]],
        "attention_mask": [[1, 1, 1]],
    }
    assert list(made) == ["token_type_ids", "input_ids", "attention_mask"]
    assert all(array.dtype == np.int64 for array in made.values())
