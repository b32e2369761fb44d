"""A recipe is spoken of in its own words, whatever command a step of it stands for."""

from __future__ import annotations

import pytest

from edgellm.optimize.recipe import in_keys


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("--seq-len 999 is beyond the model.", "seq_len 999 is beyond the model."),
        ("Use --scheme int8-static.", "Use schemes int8-static."),
        ("Give more with --data.", "Give more with train."),
        ("name more with --structure, or remove less", "name more with structure, or remove less"),
        ("pip install --upgrade edgellm", "pip install --upgrade edgellm"),
        ("nothing -- at all", "nothing -- at all"),
    ],
)
def test_options_are_said_as_keys(said: str, meant: str) -> None:
    assert in_keys(said) == meant
