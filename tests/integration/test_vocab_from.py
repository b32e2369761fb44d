"""Builds with a trimmed vocabulary: kept texts are answered as before, tables and tokenizer are smaller, the user is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm.runtime import Bundle, Session
from edgellm.texts import default_texts

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration
Model = Callable[[str], Path]

CORPUS = default_texts("golden")[:60]
SMALL = ("--target", "linux-x86_64", "--scheme", "fp32")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(CORPUS) + "\n", encoding="utf-8")
    return path


def built(out: Path, *args: str) -> Bundle:
    done = edgellm("build", *args, "--format", "onnx", "--out", str(out), "--quiet")
    assert done.returncode == 0, done.stderr
    return Bundle.open(out)


def rows(bundle: Bundle) -> int:
    bound = bundle.manifest.artifacts[0].signature.inputs[0].bound
    assert bound is not None
    return bound


@pytest.fixture(scope="module")
def trimmed(model: Model, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("trimmed") / "bundle"
    return built(out, str(model("wordy")), *SMALL, "--vocab-from", str(corpus))


def test_a_small_model_loses_rows_and_no_answer(trimmed: Bundle, model: Model, tmp_path: Path) -> None:
    whole = built(tmp_path / "whole", str(model("wordy")), *SMALL)
    assert rows(trimmed) < rows(whole)
    assert trimmed.manifest.artifacts[0].bytes < whole.manifest.artifacts[0].bytes
    assert trimmed.manifest.model.name == whole.manifest.model.name
    assert trimmed.manifest.model.source_sha256 != whole.manifest.model.source_sha256
    notes = " ".join(trimmed.manifest.notes)
    assert f"trimmed from {rows(whole):,} to {rows(trimmed):,} pieces by corpus.txt (60 texts, SHA-256 " in notes
    assert f"The whole source's SHA-256 is {whole.manifest.model.source_sha256}." in notes
    assert "changed no piece of 60 texts" in notes
    assert "60 of them are answered as before, to the bit." in notes
    card = (trimmed.path / "README.md").read_text(encoding="utf-8")
    assert all(f"- {note}" in card for note in trimmed.manifest.notes)
    sessions = [Session.open(bundle.path, format="onnx") for bundle in (whole, trimmed)]
    for text in CORPUS:
        before, after = (session(text).value for session in sessions)
        assert np.array_equal(before, after), text  # type: ignore[arg-type]
    for text in ("", "\0", "zyxwvut 🦔", "Übermorgen [MASK] [PAD]"):
        assert np.isfinite(sessions[1](text).value).all()  # type: ignore[call-overload]


def test_a_second_build_finds_the_trimmed_source(trimmed: Bundle, model: Model, corpus: Path, tmp_path: Path) -> None:
    script = (
        "import json, sys, edgellm\n"
        "events = []\n"
        "edgellm.build(sys.argv[1], vocab_from=sys.argv[2], out=sys.argv[3], target='linux-x86_64', scheme='fp32',\n"
        "    formats=['onnx'], progress=events.append)\n"
        "print(json.dumps([[e.stage, e.cached] for e in events if e.seconds is not None]))\n"
        "assert not {'torch', 'transformers', 'onnx', 'safetensors.torch'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(model("wordy")), str(corpus), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stages = json.loads(done.stdout)
    assert [name for name, _ in stages[:2]] == ["source", "trim"]
    assert {name for name, cached in stages if cached} == {"trim", "reference", "lower onnx"}
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (trimmed.path / "manifest.json").read_bytes()


def test_without_the_cache_the_same_bytes_come_out(trimmed: Bundle, model: Model, corpus: Path, tmp_path: Path) -> None:
    anew = built(tmp_path / "anew", str(model("wordy")), *SMALL, "--no-cache", "--vocab-from", str(corpus))
    assert (anew.path / "manifest.json").read_bytes() == (trimmed.path / "manifest.json").read_bytes()


@pytest.mark.full
def test_the_real_model_gets_megabytes_smaller(corpus: Path, tmp_path: Path) -> None:
    whole = built(tmp_path / "whole", "--target", "android-arm64")
    trimmed = built(tmp_path / "trimmed", "--target", "android-arm64", "--vocab-from", str(corpus))
    before, after = (bundle.manifest.artifacts[0] for bundle in (whole, trimmed))
    dropped = rows(whole) - rows(trimmed)
    assert dropped > 20_000
    saved = before.bytes - after.bytes
    # int8 tables: a byte per number, and a scale and a zero point per row.
    assert dropped * 384 <= saved <= dropped * (384 + 8)
    sizes = [(bundle.path / "tokenizer.json").stat().st_size for bundle in (whole, trimmed)]
    assert sizes[1] < sizes[0] / 5
    assert after.agreement.mean >= 0.99
    assert trimmed.manifest.model.licence == "apache-2.0"
    assert trimmed.manifest.task_options == whole.manifest.task_options
    assert f"{dropped:,} rows fewer, {dropped * 384 * 4 / 1e6:.2f} MB in fp32" in trimmed.manifest.notes[0]
    cases = [{case.input: case.outputs[0]["embedding"] for case in bundle.golden()} for bundle in (whole, trimmed)]
    assert all(np.array_equal(cases[0][text], cases[1][text]) for text in CORPUS)
    session = Session.open(trimmed.path, format="onnx")
    cosines = [float(np.dot(session(text).value, cases[0][text][0])) for text in CORPUS]  # type: ignore[arg-type]
    assert np.mean(cosines) > 0.99  # int8 of the trimmed model with fp32 of the whole one


SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import torch, transformers
from torch import nn
from safetensors.torch import load_file
from edgellm.errors import EdgellmError
from edgellm.stages import tables, trim
from edgellm.stages.vocabulary import follow
kind, folder = sys.argv[1], Path(sys.argv[2])
torch.manual_seed(3)
common = dict(
    vocab_size=500, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=40,
)
classes = {
    "tied": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**common)),
    "untied": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**common, tie_word_embeddings=False)),
    "offset": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**common)),
    "width": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**{**common, "vocab_size": 64})),
}
model = classes[kind]().eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.normal_(0, 0.1)
model.save_pretrained(folder / "whole")
found = tables.tables(model)
kept = sorted({0, 1, 2, *range(5, found.rows, 7), found.rows - 1})
def cut(kept, name):
    (folder / name).mkdir()
    tables.cut_weights(folder / "whole", folder / name, found, kept)
    config = (folder / "whole" / "config.json").read_text()
    (folder / name / "config.json").write_text(follow(config, {old: new for new, old in enumerate(kept)}, found.rows))
    return type(model).from_pretrained(folder / name).eval()
def logits(model):
    class Logits(nn.Module):
        def forward(self, input_ids):
            return model(input_ids=input_ids).logits
    return Logits()
feeds = [{"input_ids": torch.tensor([[kept[i % len(kept)] for i in range(n)]])} for n in (3, 9, 20)]
after = cut(kept, "trimmed")
exact = trim.ensure_same_outputs(logits(model), logits(after), feeds, kept)
faults = 0
for place, planted in ((3, 4), (len(kept) - 1, found.rows - 2)):
    wrong = list(kept)
    wrong[place] = planted if planted not in kept else planted - 1
    try:
        trim.ensure_same_outputs(logits(model), logits(cut(wrong, f"wrong{place}")), feeds, kept)
    except EdgellmError as error:
        faults += "answers a text of the corpus differently" in str(error)
print(json.dumps({
    "names": sorted(found.names), "numbers": found.numbers, "exact": exact, "faults": faults, "kept": len(kept),
    "shapes": {key: list(t.shape) for key, t in load_file(folder / "trimmed" / "model.safetensors").items()},
    "padding": after.get_input_embeddings().padding_idx, "parameters": sum(p.numel() for p in after.parameters()),
    "before": sum(p.numel() for p in model.parameters()),
}))
"""


@pytest.mark.parametrize("kind", ["tied", "untied", "offset", "width"])
def test_heads_over_the_vocabulary_are_cut_with_the_table(kind: str, tmp_path: Path) -> None:
    """Tied to the table or not, with their bias; a feed-forward as wide as the vocabulary has rows is left alone."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    total = 64 if kind == "width" else 500
    assert result["numbers"] == (66 if kind == "untied" else 33)  # 32 of the table and one bias, and both again
    assert result["before"] - result["parameters"] == result["numbers"] * (total - result["kept"])
    cut = {key for key, shape in result["shapes"].items() if shape[0] == result["kept"]}
    assert cut
    assert all(any(key.endswith(name) or name.endswith(key) for name in result["names"]) for key in cut)
    assert result["padding"] == (1 if kind == "offset" else 0)
    assert result["faults"] == 2
