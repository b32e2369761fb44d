"""Tiny models of random weights that distillations start from; not to be changed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what writes the model of a kind once: one of `tests.models`, or "tagger". "pruned" is cut from "encoder"."""
    home = tmp_path_factory.mktemp("models")

    def write(kind: str) -> Path:
        folder = home / kind
        if not folder.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # transformers warns when it is imported
                from tests import heads, models
            if kind == "tagger":
                heads.write("tagger-wordpiece", folder)
            elif kind == "pruned":
                whole = models.BertModel.from_pretrained(write("encoder"), add_pooling_layer=False)
                models._prune(whole)
                # The trainer of a vocabulary is not deterministic, so it is the encoder's own.
                shutil.copytree(home / "encoder", folder)
                whole.save_pretrained(folder)
            else:
                models.write(kind, folder)
        return folder

    return write
