"""Shorten: some layers of an encoder as an ordinary smaller checkpoint, which is how a student may begin."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgellm.distill.losses import spaced
from edgellm.errors import InputError, UsageError
from edgellm.stages.load import load, shapes
from edgellm.stages.source import SourceModel

_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "*.model", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "*_Pooling/config.json", "*_Normalize/config.json",
)  # fmt: skip
"""What lies beside weights and configuration: the tokenizer, and how sentences are pooled."""


def shorten(source: SourceModel, count: int, layers: Sequence[int] | None, folder: Path) -> tuple[int, ...]:
    """Write a model with some of its layers into a new folder, with its tokenizer, and return which they are.

    Args:
        source: the model.
        count: how many are kept.
        layers: which, from 0, in order; evenly spaced ones if None, with the first and the last.
        folder: a new one.

    Raises:
        InputError: its layers can't be told apart.
        UsageError: there are no such layers.

    """
    model = load(source)
    parent, name, stack = _stack(source, model)
    if not 1 <= count <= len(stack):
        raise UsageError(
            f"A student of {count} layers can't be made of {source.name}, which has {len(stack)}.",
            hint=f"Choose 1 to {len(stack)}.",
        )
    kept = spaced(count, len(stack)) if layers is None else tuple(layers)
    if len(kept) != count or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(stack):
        raise UsageError(
            f"A student of {count} layers can't begin as the layers {', '.join(map(str, kept)) or 'of none'} of {source.name}.",
            hint=f"Name {count} of 0 to {len(stack) - 1}, in their order.",
        )
    setattr(parent, name, nn.ModuleList([stack[i] for i in kept]))
    _follow(model.config, kept, len(stack))
    folder.mkdir(parents=True)
    copy_beside(Path(str(source.folder)), folder)
    save(model, folder, like=Path(str(source.folder)))
    return kept


def save(model: nn.Module, folder: Path, *, like: Path) -> None:
    """Write weights and configuration as `save_pretrained` does.

    Args:
        model: of transformers.
        folder: there already.
        like: folder that the model was loaded from. A pooler whose weights it does not have was never trained and is not
            written: sentence encoders are often saved without.

    """
    state = model.state_dict()
    if not any("pooler" in key for key in shapes(str(like))):
        state = {key: tensor for key, tensor in state.items() if "pooler" not in key}
    cast(Any, model).save_pretrained(folder, state_dict=state)


def copy_beside(source: Path, folder: Path) -> None:
    """Copy what lies beside the weights of a model: its tokenizer, and how sentences are pooled."""
    for pattern in _BESIDE:
        for path in sorted(source.glob(pattern)):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _stack(source: SourceModel, model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """Return the list of layers, with the module that holds it and its name there: the outermost of the right length."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(item) for item in module}) == 1
    ]
    if not found:
        raise InputError(
            f"The layers of {source.name} ({type(model).__name__}) can't be told apart, or share their weights.",
            hint="Give a folder with a smaller model as the student.",
        )
    path, stack = min(found, key=lambda item: (item[0].count("."), -sum(p.numel() for p in item[1].parameters())))
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name, stack


def _follow(config: Any, layers: tuple[int, ...], count: int) -> None:
    """Make a configuration that of some layers: their number, and lists that say something of each ("layer_types")."""
    for key, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == count and "layer" in key:
            setattr(config, key, [value[i] for i in layers])
    config.num_hidden_layers = len(layers)
