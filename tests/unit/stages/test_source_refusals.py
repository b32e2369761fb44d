"""Every model that can't be built is refused with a sentence that says what to do, before torch is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.errors import EdgellmError, InputError, UsageError
from tests.unit.stages.folders import ROWS, model_folder, read


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-5])


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _dense(folder: Path) -> None:
    _write("modules.json", json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]))(folder)


def _max_pooling(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    _write("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}')(folder)
    _write("modules.json", '[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]')(folder)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "is no model: it has no config.json. MODEL is a folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights: no .safetensors file"),
    "pickle only": (
        _pickle_only,
        "has its weights only as a pickle; loading one runs the code inside. Where you trust it",
    ),
    "missing shard": (_missing_shard, "misses shards of its weights: model-00002-of-00002.safetensors"),
    "cut weights": (_cut_weights, "is no safetensors file"),
    "empty weights": (_write("model.safetensors", ""), "is no safetensors file"),
    "weights without tensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{}      "),
        "its safetensors files are empty",
    ),
    "config no JSON": (_write("config.json", "{"), "config.json can't be read"),
    "config a list": (_write("config.json", "[]"), "config.json holds no JSON object"),
    "config too deep": (_write("config.json", "[" * 100_000), "config.json can't be read"),
    "index no JSON": (_write("model.safetensors.index.json", "{"), "index.json can't be read"),
    "index of the wrong kind": (_write("model.safetensors.index.json", '{"weight_map": []}'), "index.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "There is no tokenizer"),
    "tokenizer no tokenizer": (_write("tokenizer.json", "{}"), "is no tokenizer that the tokenizers library reads"),
    "tokenizer config no JSON": (_write("tokenizer_config.json", "{"), "tokenizer_config.json can't be read"),
    "dense module": (_dense, "asks for a Dense module"),
    "max pooling": (_max_pooling, "asks for max pooling"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_folder_that_can_not_be_built_is_an_input_error(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "m")
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(InputError) as caught:
        read(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, InputError, "LlamaForCausalLM answers token by token"),
        ({"architectures": ["GPT2LMHeadModel"]}, InputError, "answers token by token"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, InputError, "token by token"),
        ({"architectures": ["BartModel"], "is_encoder_decoder": True}, InputError, "build its encoder alone"),
        ({"architectures": ["BertForPreTraining"]}, UsageError, "No task here is for BertForPreTraining. Tasks: ctc-seq2seq, "),
        ({"architectures": ["ViTForImageClassification"]}, UsageError, "No task here is for ViT"),
        ({"architectures": None}, UsageError, "names no architecture. Say what it is for with --task."),
        ({"architectures": []}, UsageError, "names no architecture"),
        ({"architectures": None, "auto_map": {"AutoModel": "m.M"}}, InputError, "runs code of its own (auto_map)"),
        ({"vocab_size": ROWS - 1}, InputError, f"The tokenizer has {ROWS} tokens, the model's embedding table {ROWS - 1}"),
        ({"hidden_size": None}, InputError, "no hidden_size"),
    ],
)  # fmt: skip
def test_an_architecture_that_can_not_be_built_is_named(
    tmp_path: Path, config: dict[str, object], kind: type[EdgellmError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        read(model_folder(tmp_path / "m", **config))
    assert message in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt2", "is refused: loading a .pt2 unpickles it, which runs whatever code is inside. Build from"),
        ("model.pt", "it is a pickle, and loading one runs the code inside. Where you trust it, convert it once"),
        ("model.pth", "it is a pickle"),
        ("pytorch_model.bin", "it is a pickle"),
        ("model.ckpt", "it is a pickle"),
    ],
)
def test_files_that_unpickle_are_refused_unopened(tmp_path: Path, name: str, message: str, exists: bool) -> None:
    if exists:
        (tmp_path / name).mkdir()  # opening it would be another error
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nowhere", "a:b:c", "folder/with:colon", "sentence-transformers/all-MiniLM-L6-v2", ""]
)
def test_what_is_neither_folder_nor_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="MODEL is a folder written by save_pretrained"):
        read(name)


def test_a_folder_whose_name_looks_like_a_function_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "v:latest")
    assert read("v:latest").folder == str(tmp_path / "v:latest")


def test_nothing_of_this_loaded_torch_or_ran_a_model_s_code(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", auto_map={"AutoModel": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    before = "torch" in sys.modules
    read(folder)
    assert "evil" not in sys.modules
    assert ("torch" in sys.modules) is before
