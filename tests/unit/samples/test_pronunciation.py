"""samples/pronunciation: words stay in one part, tokenizers share their ids, and error rates are those of the closest."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

FOLDER = Path(__file__).parents[3] / "samples" / "pronunciation"
ENTRIES = {
    "ABANDON": "AH0 B AE1 N D AH0 N", "A": "AH0", "A(1)": "EY1", "A'S": "EY1 Z", "A42128": "EY1 F AO1 R", "EGG": "EH1 G",
    "EGG(1)": "EH1 G", "X" * 21: "EH1 K S", "READ": "R EH1 D", "READ(1)": "R IY1 D",
}  # fmt: skip


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    names = ("data", "race")
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def words(sample: dict[str, ModuleType], tmp_path: Path) -> dict[str, list[str]]:
    archive, content = tmp_path / "d.tgz", json.dumps(ENTRIES).encode()
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("package/data/dict.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    found: dict[str, list[str]] = sample["data"].pronunciations(archive)
    return found


def test_entries_become_words_with_all_their_pronunciations(words: dict[str, list[str]]) -> None:
    assert words == {
        "abandon": ["AH0 B AE1 N D AH0 N"], "a": ["AH0", "EY1"], "egg": ["EH1 G"], "read": ["R EH1 D", "R IY1 D"],
    }  # fmt: skip


def test_a_word_is_always_in_the_same_part(sample: dict[str, ModuleType]) -> None:
    many = {f"{a}{b}": ["AH0"] for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz"}
    whole = sample["data"].split(many)
    assert sum(map(len, whole.values())) == len(many)
    some = dict(list(many.items())[::3])
    for part, members in sample["data"].split(some).items():
        assert members.keys() <= whole[part].keys()


def test_what_is_unlabelled_is_not_in_the_dictionary(
    sample: dict[str, ModuleType], words: dict[str, list[str]]
) -> None:
    assert sample["data"].unlabelled(["Egg", "salad", "salad", "don't", "Zoë", "y" * 21], words) == ["salad"]


def test_words_are_read_by_letters_and_pronunciations_by_phones(
    sample: dict[str, ModuleType], words: dict[str, list[str]]
) -> None:
    read, write = (Tokenizer.from_str(text) for text in sample["data"].tokenizers(words).values())
    assert read.get_vocab() == write.get_vocab()
    assert read.encode("Egg!").tokens == ["e", "g", "g", "<unk>"]
    assert write.encode("EH1 G").tokens == ["EH1", "G"]
    assert write.decode(write.encode("AH0 B AE1 N D AH0 N").ids) == "AH0 B AE1 N D AH0 N"


def test_the_closest_pronunciation_counts_with_stress_and_without(
    sample: dict[str, ModuleType], words: dict[str, list[str]]
) -> None:
    said = {"abandon": "AH0 B AE0 N D AH0 N", "a": "EY1", "egg": "EH1 K", "read": "R IY1 D"}
    listed = {word: [way.split() for way in ways] for word, ways in words.items()}
    assert sample["race"].error_rates(said.__getitem__, listed, stress=False) == pytest.approx((25.0, 100 / 13))
    assert sample["race"].error_rates(said.__getitem__, listed, stress=True) == pytest.approx((50.0, 200 / 13))


def test_weights_are_kept_in_half_the_bytes_and_only_where_fp16_holds_them(tmp_path: Path) -> None:
    model, kept = tmp_path / "model", tmp_path / "kept"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = {"a": torch.tensor([1.0, 0.1]), "ids": torch.tensor([70_000])}
    save_file(weights, model / "model.safetensors")

    def keep() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / "keep.py"), str(model), str(kept)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = keep()
    assert done.returncode == 0, done.stderr
    found = load_file(kept / "model.safetensors")
    assert (found["a"].dtype, found["ids"].tolist()) == (torch.float16, [70_000])
    assert torch.allclose(found["a"].float(), weights["a"], atol=1e-3)
    assert (kept / "config.json").is_file()
    save_file({"a": torch.tensor([1e6])}, model / "model.safetensors")
    done = keep()
    assert (done.returncode, "a holds numbers that fp16 does not" in done.stderr) == (3, True)
    assert load_file(kept / "model.safetensors").keys() == {"a", "ids"}, "what was there is as it was"
