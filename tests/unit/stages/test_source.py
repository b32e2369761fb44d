"""What is read of a model folder without torch: task, inputs and their bounds, positions, licence, identity."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import InputSpec, OutputSpec
from edgellm.errors import InputError, MissingDependencyError, UsageError
from edgellm.stages.source import task_of
from tests.unit.stages.folders import ROWS, model_folder, read


def test_a_folder_is_described_without_loading_it(tmp_path: Path) -> None:
    source = read(model_folder(tmp_path / "my-model"))
    assert (source.name, source.task, source.factory) == ("my-model", "feature-extraction", None)
    assert source.folder == str(tmp_path / "my-model")
    assert source.tokenizer == str(tmp_path / "my-model" / "tokenizer.json")
    assert source.options == TaskOptions(pooling="mean")
    assert source.parameters == ROWS * 8 + 8
    assert source.max_positions == 64
    assert source.output == OutputSpec("embedding", "float32", (1, 8))
    assert source.inputs == (
        InputSpec("input_ids", "int64", (1, "tokens"), ROWS, 0),
        InputSpec("attention_mask", "int64", (1, "tokens"), 2, 0),
        InputSpec("token_type_ids", "int64", (1, "tokens"), 2, 0),
    )
    assert (source.licence, source.lowercase) == (None, False)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertModel", "feature-extraction"),
        ("MPNetModel", "feature-extraction"),
        ("T5EncoderModel", "feature-extraction"),
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForSequenceClassification", "text-classification"),
    ],
)
def test_the_task_follows_the_architecture(architecture: str, task: str) -> None:
    assert task_of({"architectures": [architecture], "is_encoder_decoder": architecture.startswith("T5")}) == task


def test_a_task_of_one_s_own_choice_wins(tmp_path: Path) -> None:
    source = read(model_folder(tmp_path / "m", architectures=["BertForMaskedLM"]), task="feature-extraction")
    assert source.task == "feature-extraction"


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, 513),
        ({"max_position_embeddings": None, "max_positions": 128}, 128),
        ({"max_position_embeddings": None}, None),
        ({"max_position_embeddings": -1}, None),
    ],
)
def test_the_longest_text_that_the_position_table_takes(tmp_path: Path, config: dict[str, Any], positions: int) -> None:
    assert read(model_folder(tmp_path / "m", **config)).max_positions == positions


@pytest.mark.parametrize(
    ("types", "tokenizer_config", "taken"),
    [
        (2, None, True),
        (2, {}, True),
        (2, {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}, True),
        (2, {"model_input_names": ["input_ids", "attention_mask"]}, False),
        (1, None, False),  # a table of one row tells nothing apart
        (None, None, False),
    ],
)
def test_token_type_ids_are_an_input_where_the_tokenizer_emits_them(
    tmp_path: Path, types: int | None, tokenizer_config: dict[str, Any] | None, taken: bool
) -> None:
    source = read(model_folder(tmp_path / "m", tokenizer_config=tokenizer_config, type_vocab_size=types))
    assert ("token_type_ids" in [spec.name for spec in source.inputs]) is taken


@pytest.mark.parametrize(
    ("pad", "tokenizer_config", "expected"),
    [
        (1, None, 1),
        (None, {"pad_token": "[SEP]"}, 3),
        (None, {"pad_token": {"content": "[SEP]"}}, 3),
        (None, None, 0),
        (ROWS, {"pad_token": "[SEP]"}, 3),  # beyond the table, so not to be trusted
        (-1, None, 0),
    ],
)
def test_the_padding_id(
    tmp_path: Path, pad: int | None, tokenizer_config: dict[str, Any] | None, expected: int
) -> None:
    source = read(model_folder(tmp_path / "m", tokenizer_config=tokenizer_config, pad_token_id=pad))
    assert source.inputs[0].pad == expected


def test_a_table_with_more_rows_than_tokens_bounds_the_ids(tmp_path: Path) -> None:
    assert read(model_folder(tmp_path / "m", vocab_size=ROWS + 64)).inputs[0].bound == ROWS + 64


@pytest.mark.parametrize("asked", [True, False, None])
def test_lower_casing_follows_the_sentence_transformers_file(tmp_path: Path, asked: bool | None) -> None:
    folder = model_folder(tmp_path / "m")
    if asked is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": asked}))
    assert read(folder).lowercase is bool(asked)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model", "apache-2.0"),
        ("# Model\n\nlicense: mit", None),
        ("---\nlanguage: en\n---\nlicense: mit", None),
        ("", None),
    ],
)
def test_the_licence_stands_in_the_card_s_front_matter(tmp_path: Path, card: str, licence: str | None) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "README.md").write_text(card)
    assert read(folder).licence == licence


def test_the_identity_follows_config_weights_and_tokenizer_and_not_the_place(tmp_path: Path) -> None:
    digest = read(model_folder(tmp_path / "a")).sha256
    assert read(model_folder(tmp_path / "b")).sha256 == digest
    assert read(model_folder(tmp_path / "c", extra=1)).sha256 != digest
    other = model_folder(tmp_path / "d")
    save_file({"x": np.zeros(8, np.float32)}, other / "model.safetensors")
    assert read(other).sha256 != digest
    other = model_folder(tmp_path / "e")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace('"kettle"', '"kittle"'))
    assert read(other).sha256 != digest


@pytest.mark.parametrize("name", ["folder", "file"])
def test_a_tokenizer_from_elsewhere(tmp_path: Path, name: str) -> None:
    model = model_folder(tmp_path / "m")
    (tmp_path / "t").mkdir()
    (model / "tokenizer.json").rename(tmp_path / "t" / "tokenizer.json")
    given = tmp_path / "t" if name == "folder" else tmp_path / "t" / "tokenizer.json"
    assert read(model, tokenizer=str(given)).tokenizer == str(tmp_path / "t" / "tokenizer.json")


def test_a_factory_is_described_elsewhere_and_never_imported_here(tmp_path: Path) -> None:
    model_folder(tmp_path)
    asked = []

    def describe(factory: str) -> dict[str, Any]:
        asked.append(factory)
        return {"config": {"hidden_size": 8, "vocab_size": ROWS}, "sha256": "ab", "parameters": 5}

    source = read("pkg.mod:make", task="feature-extraction", tokenizer=str(tmp_path), describe=describe)
    assert asked == ["pkg.mod:make"]
    assert (source.name, source.folder, source.factory, source.parameters) == ("make", None, "pkg.mod:make", 5)
    assert [spec.name for spec in source.inputs] == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("given", [{"task": "feature-extraction"}, {"tokenizer": "."}, {}])
def test_a_factory_without_task_or_tokenizer_is_a_usage_error(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="Give --task and --tokenizer"):
        read("pkg.mod:make", **given)


def test_an_unknown_task_is_refused_before_the_folder_is_looked_at() -> None:
    with pytest.raises(UsageError, match="No task 'summarise'"):
        read("/no/such/folder", task="summarise")


def test_a_missing_demo_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgellm\[demo\]'"):
        read(None)


@pytest.mark.parametrize(
    "config",
    [
        {"type_vocab_size": "two"},
        {"architectures": {"a": "BertModel"}},
        {"architectures": [None]},
        {"pad_token_id": "0", "model_type": "roberta", "max_position_embeddings": 512},
        {"hidden_size": [8]},
        {"vocab_size": "many"},
        {"max_position_embeddings": "long"},
    ],
    ids=str,
)
def test_a_configuration_of_the_wrong_types_is_read_or_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = model_folder(tmp_path / "m", **config)
    with contextlib.suppress(InputError, UsageError):
        read(folder)
