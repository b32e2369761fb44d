"""Model folders as save_pretrained writes them, with a few numbers for weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from edgellm.stages.source import SourceModel, read_source
from tests.tiny import tiny_tokenizer

ROWS = tiny_tokenizer().get_vocab_size()
CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 8,
    "vocab_size": ROWS,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def model_folder(path: Path, *, tokenizer_config: dict[str, Any] | None = None, **config: Any) -> Path:
    """Write a model folder; `config` overrides CONFIG, and None drops a key."""
    path.mkdir(parents=True, exist_ok=True)
    merged = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(merged), encoding="utf-8")
    save_file(
        {"embeddings.weight": np.ones((ROWS, 8), np.float32), "bias": np.ones(8, np.float32)},
        path / "model.safetensors",
    )
    tiny_tokenizer().save(str(path / "tokenizer.json"))
    if tokenizer_config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    return path


def read(model: Path | str | None, **options: Any) -> SourceModel:
    """Read a source that is no factory."""

    def describe(factory: str) -> dict[str, Any]:
        raise AssertionError(f"{factory} was called")

    chosen = {"task": None, "tokenizer": None, "pooling": None, "describe": describe, **options}
    return read_source(None if model is None else str(model), **chosen)
