"""Tables: what of a model has a row per piece of the vocabulary, and weights with fewer of them. For build jobs."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgellm.errors import InputError


@dataclass(frozen=True)
class Tables:
    """What of a model has a row per piece.

    Attributes:
        names: of the tensors in the module, tied or not.
        rows: of each.
        numbers: in one row of all of them, tied ones counted once.

    """

    names: frozenset[str]
    rows: int
    numbers: int


def tables(model: nn.Module) -> Tables:
    """Return what of a transformers model has a row per piece: its table of embeddings, and a head that predicts pieces.

    The model's class says it: what is longer in a model of one more piece, which is made without memory.

    Raises:
        InputError: nothing is.

    """
    rows = getattr(model.config, "vocab_size", None)
    config = copy.deepcopy(model.config)
    config.vocab_size = (rows or 0) + 1
    own = type(model)  # which may be one that follows the shapes of a checkpoint, see `prepare`
    with torch.device("meta"):
        longer = getattr(importlib.import_module(own.__module__), own.__name__)(config).state_dict()
    here = model.state_dict(keep_vars=True)
    names = frozenset(name for name, tensor in here.items() if tensor.shape[:1] == (rows,) != longer[name].shape[:1])
    if not rows or not names:
        raise InputError(f"{own.__name__} can't be trimmed: nothing in it has a row per piece of its vocabulary.")
    per_row = {here[name].data_ptr(): here[name].numel() // rows for name in names}
    return Tables(names, rows, sum(per_row.values()))


def cut_weights(folder: Path, out: Path, found: Tables, kept: Sequence[int]) -> None:
    """Write the safetensors files of `folder` into `out`, with only the rows `kept` of each tensor of `found`.

    A file may name a tensor with or without the prefix of the base model.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    place, total = torch.tensor(kept), 0
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {}
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
            for key in file.keys():  # noqa: SIM118  not a dict
                tensor = file.get_tensor(key)
                if tensor.shape[:1] == (found.rows,) and any(_same(key, name) for name in found.names):
                    tensor = tensor[place]
                tensors[key] = tensor
                total += tensor.numel() * tensor.element_size()
        save_file(tensors, out / path.name, metadata=metadata or {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        data = json.loads(index.read_text(encoding="utf-8"))
        data["metadata"] = {**data.get("metadata", {}), "total_size": total}
        (out / index.name).write_text(json.dumps(data, indent=2), encoding="utf-8")


def _same(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}") or name.endswith(f".{key}")
