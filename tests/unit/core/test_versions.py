"""Version bounds: what they allow is what packaging says, and what is none is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from edgellm.core.versions import contains, dotted, oldest, release


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (">=1.17", (1, 17)), (">=1.5,<1.6", (1, 5)), ("~=2.13.0", (2, 13)), ("==1.20.1", (1, 20, 1)),
        (">=1.2, >=1.4", (1, 4)), (">=2.0", (2,)),
    ],
)  # fmt: skip
def test_the_oldest_version_is_the_highest_lower_bound(bounds: str, expected: tuple[int, ...]) -> None:
    assert oldest(bounds) == expected


@pytest.mark.parametrize(
    "bounds", ["", "1.17", ">=", ">=1.x", ">1.17", "!=1.2", "==1.*", ">=1.17;", "~=1", ">=1.17rc1", ">= 1.17 <2", "⩾1"]
)
def test_what_is_no_list_of_bounds_is_refused(bounds: str) -> None:
    with pytest.raises(ValueError, match=r"version bounds|two numbers"):
        oldest(bounds)


@pytest.mark.parametrize("bounds", ["<2", "<=1.17"])
def test_bounds_need_an_oldest_version(bounds: str) -> None:
    with pytest.raises(ValueError, match="names no oldest version"):
        oldest(bounds)


@pytest.mark.parametrize("bounds", [">=2,<1", "==1.2,==1.3", ">=1.6,~=1.5,<1.6", "~=1.5.0,>=1.6"])
def test_bounds_that_allow_nothing_are_refused(bounds: str) -> None:
    with pytest.raises(ValueError, match="allows no version at all"):
        oldest(bounds)


@pytest.mark.parametrize(("text", "expected"), [("2.13.0+cpu", "2.13"), ("1.31.1", "1.31.1"), ("3", "3.0")])
def test_a_version_is_read_up_to_its_release(text: str, expected: str) -> None:
    assert dotted(release(text)) == expected


def test_what_starts_with_no_number_is_no_version() -> None:
    with pytest.raises(ValueError, match="'unknown' is no version"):
        release("unknown")


_NUMBERS = st.lists(st.integers(0, 3), min_size=2, max_size=3).map(lambda parts: ".".join(map(str, parts)))


@given(st.lists(st.tuples(st.sampled_from([">=", "<=", "==", "~=", "<"]), _NUMBERS), min_size=1, max_size=3), _NUMBERS)
def test_bounds_hold_what_packaging_says(clauses: list[tuple[str, str]], version: str) -> None:
    bounds = ",".join(sign + number for sign, number in clauses)
    assert contains(bounds, release(version)) == (version in SpecifierSet(bounds))
