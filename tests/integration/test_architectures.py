"""The matrix of architectures: a slice of it here, all of it in the full run (`python -m tests.architectures`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.core import strict
from edgellm.core.scheme import PORTABLE
from edgellm.support import FILE, Support, read_support
from tests.architectures import LISTED, OTHERS

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration

SLICE = ("T5 encoder",)
"""The one least like the model that all other tests build: Unigram, relative positions, a family that has a decoder."""


def measured(folder: Path, *options: str) -> Support:
    out = folder / "matrix.json"
    command = [sys.executable, "-m", "tests.architectures", "--json", str(out), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    return strict.read(Support, json.loads(out.read_text(encoding="utf-8")), FILE)


def test_a_slice_of_the_matrix_builds_as_the_support_file_says(tmp_path: Path) -> None:
    found = measured(tmp_path, *(part for name in SLICE for part in ("--only", name)))
    stated = {row.name: row for row in read_support().architectures}
    assert [row.name for row in found.architectures] == list(SLICE)
    for row in found.architectures:
        assert [cell.format for cell in row.cells] == list(PORTABLE)
        for cell in row.cells:
            assert cell.mean is not None, f"{row.name} {cell.format}: {cell.reason}"
            assert cell.mean >= found.measured.gate
        assert row.notes == stated[row.name].notes


@pytest.mark.full
def test_the_whole_matrix_is_what_the_support_file_says(tmp_path: Path) -> None:
    found = measured(tmp_path)
    stated = read_support()
    assert [row.name for row in found.architectures] == [row.name for row in (*LISTED, *OTHERS)]
    listed = [cell for row in found.architectures if row.listed for cell in row.cells]
    assert len(listed) == 39
    assert sum(cell.mean is not None and cell.mean >= found.measured.gate for cell in listed) >= 36
    built = {row.name: [(cell.format, cell.mean is not None) for cell in row.cells] for row in found.architectures}
    for row in stated.architectures:
        assert [(cell.format, cell.mean is not None) for cell in row.cells] == built[row.name], row.name
    for row in found.architectures:
        for cell in row.cells:
            assert "Traceback" not in cell.reason, row.name
            assert "Internal error" not in cell.reason, row.name


def test_a_family_whose_encoder_is_not_to_be_had_alone_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """The auto class would load the whole of it, whose hidden state is the decoder's."""
    script = (
        "import sys\n"
        "from transformers import BartConfig, BartModel\n"
        "from tests.vocabularies import write_bpe\n"
        "from pathlib import Path\n"
        "v = write_bpe(Path(sys.argv[1]))\n"
        "size = {'d_model': 16, 'encoder_layers': 1, 'decoder_layers': 1, 'encoder_attention_heads': 2,\n"
        "        'decoder_attention_heads': 2, 'encoder_ffn_dim': 16, 'decoder_ffn_dim': 16}\n"
        "config = BartConfig(vocab_size=v.size, max_position_embeddings=32, pad_token_id=v.pad_id, **size)\n"
        "BartModel(config).save_pretrained(sys.argv[1])\n"
    )
    folder = tmp_path / "bart"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, capture_output=True, cwd=ROOT)
    done = edgellm(
        "build", str(folder), "--target", "linux-x86_64", "--task", "feature-extraction", "--format", "onnx",
        "--out", str(tmp_path / "b"),
    )  # fmt: skip
    assert done.returncode == 3
    assert "BartModel has an encoder and a decoder, and transformers has no class for its encoder alone." in done.stderr
    assert not (tmp_path / "b").exists()
