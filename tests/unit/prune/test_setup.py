"""Data of a pruning: pairs of one text are one example."""

from __future__ import annotations

from pathlib import Path

from edgellm.prune.setup import read_data
from edgellm.tasks import Example
from tests.sequences import tiny_ctc
from tests.unit.stages.folders import read


def test_any_target_of_a_text_is_right(tmp_path: Path) -> None:
    data = tmp_path / "pairs.tsv"
    data.write_text("read\tR IY1 D\negg\tEH1 G\nread\tR EH1 D\nread\tR  IY1 D\n")
    source = read(tiny_ctc(tmp_path / "model"))
    assert read_data(data, source) == [Example(("read",), ("R IY1 D", "R EH1 D")), Example(("egg",), ("EH1 G",))]
