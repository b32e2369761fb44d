"""A hundred thousand texts, and a build that fails where the tokenizers differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.figures.tokenizers import compare_written, sources
from tests.integration.conftest import edgellm

TEXTS = 100_000
COMPARED = ("all-MiniLM-L6-v2", "wordpiece", "byte-level", "unigram")


@pytest.mark.full
@pytest.mark.parametrize("name", COMPARED)
def test_no_text_of_a_hundred_thousand_differs(tmp_path: Path, name: str) -> None:
    kinds = dict(sources(tmp_path))
    found = compare_written(kinds[name], TEXTS, tmp_path, seed=list(kinds).index(name))
    print(f"{name}: {found.texts} texts, {len(found.mismatches)} mismatches, {found.compared}")
    assert [str(mismatch) for mismatch in found.mismatches[:20]] == []
    assert (found.texts, found.notes) == (TEXTS, ())
    assert next(iter(found.compared.values())) == TEXTS
    assert min(found.compared.values()) > TEXTS / 2


@pytest.mark.integration
def test_a_build_ends_where_the_tokenizers_differ(model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model("encoder"), tmp_path / "model"))
    out = tmp_path / "bundle"
    command = (
        "build",
        str(folder),
        "--target",
        "linux-x86_64",
        "--format",
        "onnx",
        "--seq-len",
        "16,32",
        "--out",
        str(out),
    )
    right = edgellm(*command)
    assert right.returncode == 0, right.stderr
    shutil.rmtree(out)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "truncation_side": "left"}), "utf-8")
    done = edgellm(*command)  # what the first build kept is not taken for this one
    assert done.returncode == 5, done.stderr
    assert "The bundle's tokenizer differs from the source's" in done.stderr
    assert not out.exists()
