"""A recipe is spoken of in its own words, whatever command a step of it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.optimize.recipe import in_keys, read_recipe


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


def test_paths_are_relative_to_the_recipe_and_say_so_plainly(tmp_path: Path) -> None:
    home = tmp_path / "here"
    home.mkdir()
    recipe = home / "recipe.toml"
    recipe.write_text(
        """
        model = "../model"
        target = "linux-arm64"
        out = "./out/"
        [goal]
        max_drop = 1.0
        max_mb = 18
        [data]
        train = "a/../train.tsv"
        dev = "dev.tsv"
        """
    )
    found = read_recipe(recipe)
    places = found.model, found.out, found.data.train, found.data.dev
    assert places == tuple(str(tmp_path / name) for name in ("model", "here/out", "here/train.tsv", "here/dev.tsv"))
