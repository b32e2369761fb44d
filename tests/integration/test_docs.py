"""The commands of the documents run, and print what the documents say."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.runtime import Bundle
from tests.docs import ROOT, commands, lay_out, run, shape

pytestmark = pytest.mark.integration

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "samples").glob("*/README.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_document(document: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    lay_out(tmp_path, demo_bundle.path)
    found = commands(document.read_text(encoding="utf-8"), emulator=False)
    assert found, f"{document} shows no command"
    for command in found:
        assert shape(run(command.line, tmp_path)) == shape(command.output), f"$ {command.line}"
