"""Text to ids: any text gives ids that fit, and the same ids as the tokenizers library gives without limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from edgellm.errors import BundleError, InputError
from edgellm.runtime.tokenizer import Tokenizer
from tests.tiny import tiny_tokenizer

LIMIT = 16
TEXT = st.text(st.characters(), max_size=40) | st.text(
    st.sampled_from("the kettle boots\0🐟é \ud800\udc00"), max_size=200
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tokenizer.json with a length and padding of its own baked in, as many on the Hub have."""
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(5, stride=1, direction="left")
    tokenizer.enable_padding(length=12)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def ours(path: Path) -> Tokenizer:
    return Tokenizer(path, LIMIT)


@pytest.fixture(scope="module")
def fresh() -> Reference:
    return tiny_tokenizer()


@FUZZ
@given(text=TEXT)
@example("")
@example("\0")
@example("boots " * 10_000)
@example("🐟" * 40)
@example("x" * 5000)
@example("the boots the boots the boots the boots")
def test_any_text_gives_ids_that_fit(ours: Tokenizer, fresh: Reference, text: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        with pytest.raises(InputError, match="not valid Unicode"):
            ours.encode(text)
        return
    encoding = ours.encode(text)
    whole = fresh.encode(text)
    assert len(encoding.ids) == len(encoding.type_ids) == min(len(whole.ids), LIMIT)
    assert encoding.truncated == (len(whole.ids) > LIMIT)
    if encoding.truncated:
        assert list(encoding.ids) == [*whole.ids[: LIMIT - 1], whole.ids[-1]]  # cut at the end, [SEP] kept
    else:
        assert (list(encoding.ids), list(encoding.type_ids)) == (whole.ids, whole.type_ids)


@FUZZ
@given(text=st.text(st.sampled_from("the boots ab"), max_size=60), limit=st.integers(3, 2 * LIMIT))
def test_a_limit_of_one_s_own_holds_below_the_bundle_s(
    ours: Tokenizer, fresh: Reference, text: str, limit: int
) -> None:
    encoding = ours.encode(text, max_tokens=limit)
    length = len(fresh.encode(text).ids)
    assert len(encoding.ids) == min(length, limit, LIMIT)
    assert encoding.truncated == (length > min(limit, LIMIT))
    assert len(ours.encode(text).ids) == min(length, LIMIT)  # and is forgotten after it


def test_a_pair_has_two_segments(ours: Tokenizer, fresh: Reference) -> None:
    encoding = ours.encode("red boots", "the river")
    assert list(encoding.ids) == fresh.encode("red boots", "the river").ids
    assert encoding.type_ids == (0, 0, 0, 0, 1, 1, 1)


@pytest.mark.parametrize("limit", [0, 1, 2, -1])
def test_a_limit_without_room_for_text_is_refused(ours: Tokenizer, limit: int) -> None:
    with pytest.raises(InputError, match=f"{limit} tokens leave no room"):
        ours.encode("x", max_tokens=limit)


def test_a_pair_in_a_limit_without_room_for_it_is_refused(ours: Tokenizer) -> None:
    with pytest.raises(InputError, match="no room"):
        ours.encode("red", "boots", max_tokens=3)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"version": "9.0", "model": {"type": "Future"}}'])
def test_what_is_no_tokenizer_is_a_bundle_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer this version of tokenizers reads"):
        Tokenizer(tmp_path / "tokenizer.json", LIMIT)
