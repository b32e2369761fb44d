"""The matrix of architectures: what is shipped can be read, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellm import support
from edgellm.cli.support import supported
from edgellm.core import strict
from edgellm.core.scheme import PORTABLE
from edgellm.errors import EdgellmError
from tests.architectures import LISTED, OTHERS
from tests.unit.cli.command import call
from tests.vocabularies import KINDS


def shipped() -> dict[str, Any]:
    path = Path(support.__file__).parent / support.FILE
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def test_what_is_shipped_is_about_the_architectures_of_the_table() -> None:
    rows = support.read_support().architectures
    table = [(row.name, row.model, KINDS[row.tokenizer], row.listed) for row in (*LISTED, *OTHERS)]
    found = [(row.name, row.model, row.tokenizer, row.listed) for row in rows]
    assert found == [row for row in table if row in found], "rows of the table, in its order"
    assert found[: len(LISTED)] == table[: len(LISTED)], "nothing that is promised is left out"
    assert all(tuple(cell.format for cell in row.cells) == PORTABLE for row in rows)


def test_the_floor_of_what_is_promised() -> None:
    result = support.read_support()
    cells = [cell for row in result.architectures if row.listed for cell in row.cells]
    assert len(cells) == 39
    assert sum(cell.mean is not None and cell.mean >= result.measured.gate for cell in cells) >= 36


def test_reasons_are_sentences_of_edgellms_own() -> None:
    for row in support.read_support().architectures:
        for cell in row.cells:
            if cell.reason:
                assert "Traceback" not in cell.reason
                assert "\n" not in cell.reason
                assert "/" not in cell.reason.replace("w/", ""), "no path of the machine it was measured on"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["architectures"][0]["cells"][0].update(reason="and yet it failed"), "not both"),
        (lambda d: d["architectures"][0]["cells"][0].update(mean=None), "not both"),
        (lambda d: d["architectures"][0].pop("tokenizer"), "key 'tokenizer' is missing"),
        (lambda d: d["measured"].update(scheem="int8"), "unknown key 'scheem'"),
        (lambda d: d.pop("measured"), "key 'measured' is missing"),
    ],
)
def test_a_damaged_matrix_is_refused(change: Any, message: str) -> None:
    data = shipped()
    change(data)
    with pytest.raises(strict.StrictError, match=message):
        strict.read(support.Support, data, support.FILE)


def test_a_file_that_is_no_json_is_an_error_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "FILE", "py.missing")
    with pytest.raises(EdgellmError, match="of this installation can't be read"):
        support.read_support()


def test_the_command_prints_every_architecture_and_how_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "support")
    assert done.code == 0
    result = support.read_support()
    assert all(row.name in done.out for row in result.architectures)
    assert f"over {result.measured.texts} texts" in done.out
    assert f"torch {result.measured.versions['torch']}" in " ".join(done.out.split())


def test_json_is_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "support", "--json")
    assert json.loads(done.out) == shipped()


def test_a_cell_that_failed_is_shown_with_its_reason() -> None:
    data = shipped()
    data["architectures"][0]["cells"][1] = {
        "format": "onnx",
        "mean": None,
        "min": None,
        "reason": "It has no such thing.",
    }
    text = supported(strict.read(support.Support, data, support.FILE))
    assert "BERT, onnx: It has no such thing." in text
    assert "of 39 promised cells" in text
