"""Windows of long texts: nothing is left out, neighbours overlap, and every offset is right."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.errors import InputError
from edgellm.runtime.tokenizer import Tokenizer
from tests.tiny import tiny_tokenizer

WORDS = st.lists(st.sampled_from(["boots", "river", "x", "fish!", "naïve", "🐟", "12", "zq"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return _tokenizer(tmp_path_factory, 16)


def _tokenizer(tmp_path_factory: pytest.TempPathFactory, max_tokens: int) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    return Tokenizer(path, max_tokens)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS, pair=st.booleans(), overlap=st.integers(1, 5))
def test_windows_hold_the_whole_text_once_their_overlap_is_taken_out(
    tokenizer: Tokenizer, endless: Tokenizer, words: list[str], pair: bool, overlap: int
) -> None:
    text = " ".join(words)
    windows = tokenizer.windows("red", text, overlap=overlap) if pair else tokenizer.windows(text, overlap=overlap)
    whole = endless.encode(text)
    expected = [(start, end) for (start, end), part in zip(whole.offsets, whole.texts, strict=True) if part is not None]
    pieces = [
        [span for span, part in zip(w.offsets, w.texts, strict=True) if part == (1 if pair else 0)] for w in windows
    ]
    joined = pieces[0] + [span for piece in pieces[1:] for span in piece[overlap:]]
    assert joined == expected
    assert all(len(w.ids) <= 16 and not w.truncated for w in windows)
    for first, second in itertools.pairwise(pieces):
        assert first[-overlap:] == second[:overlap]


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return _tokenizer(tmp_path_factory, 10_000)


def test_a_first_text_that_fills_the_pass_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="fills 18 of 16 tokens"):
        tokenizer.windows("boots " * 15, "fish", overlap=4)


def test_the_overlap_is_kept_as_long_as_it_leaves_something_new(tokenizer: Tokenizer) -> None:
    windows = tokenizer.windows("boots " * 4, "fish " * 20, overlap=8)  # leaves 9 of 16, as the pipeline reads it
    assert [w.texts.count(1) for w in windows] == [9] * 12
    assert len(tokenizer.windows("boots " * 4, "fish " * 20, overlap=9)) == 4


def test_the_overlap_shrinks_where_the_first_text_leaves_little_room(tokenizer: Tokenizer) -> None:
    windows = tokenizer.windows("boots " * 10, "fish " * 20, overlap=8)
    assert [w.texts.count(1) for w in windows] == [3] * 9 + [2]
    assert all(w.texts.count(0) == 10 for w in windows)


def test_a_limit_is_never_raised_and_leaves_the_other_alone(tokenizer: Tokenizer) -> None:
    assert tokenizer.limited(99) is tokenizer
    small = tokenizer.limited(5)
    assert len(small.encode("boots " * 9).ids) == 5
    assert len(tokenizer.encode("boots " * 99).ids) == 16
