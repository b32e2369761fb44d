"""feature-extraction: a text to one float32 vector, by pooling the encoder's last hidden state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.errors import InputError, UsageError
from edgellm.tasks._encoding import Encode, Encoding

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs

METRIC = "cosine similarity"
GOLDEN_CASES = 96
ARCHITECTURES = ("Model",)
LABELLED = False
OUTPUT = "embedding"
POOLINGS = ("mean", "cls", "none")


def encode(text: object, encode: Encode) -> list[Encoding]:
    """Return the one pass of a text."""
    if not isinstance(text, str):
        raise InputError(f"feature-extraction takes a text, not {type(text).__name__}.")
    return [encode(text, None)]


def decode(outputs: Sequence[Outputs], options: TaskOptions) -> object:
    """Return a float32 vector [width]; with pooling "none" one vector per token [tokens, width]."""
    return np.asarray(outputs[0][OUTPUT][0], dtype=np.float32)


def scores(source: Sequence[Outputs], other: Sequence[Outputs], options: TaskOptions) -> list[float]:
    """Return the cosine similarity of each pair; without pooling, the mean over its tokens."""
    return [_cosine(a[OUTPUT][0], b[OUTPUT][0]) for a, b in zip(source, other, strict=True)]


def read_options(folder: Path | None, config: dict[str, object], pooling: str | None) -> TaskOptions:
    """Return pooling and normalization as the model's own sentence-transformers files ask.

    `pooling` overrides them. Without such files it is the mean over real tokens, not normalized.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"No pooling '{pooling}'. Choices: {', '.join(POOLINGS)}.")
    own, normalize = _sentence_transformers(folder, read_pooling=pooling is None)
    chosen = pooling or own or "mean"
    return TaskOptions(pooling=chosen, normalize=normalize and chosen != "none")


def output_spec(config: dict[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, width], or [1, tokens, width] without pooling."""
    width = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    if not isinstance(width, int):
        raise InputError("The model's configuration has no hidden_size.")
    shape = (1, TOKENS, width) if options.pooling == "none" else (1, width)
    return OutputSpec(OUTPUT, "float32", shape)


def auto_class() -> str:
    """Return the auto class of a bare encoder."""
    return "AutoModel"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the encoder with pooling and normalization inside the graph."""
    from edgellm.tasks._torch import Pooled

    return Pooled(model, pooling=options.pooling, normalize=options.normalize)


def check_labels(labels: Sequence[str], options: TaskOptions) -> None:
    """Never called: vectors have no labels."""
    raise NotImplementedError


def evaluate(outputs: Sequence[Outputs], labels: Sequence[str], options: TaskOptions) -> tuple[str, float]:
    """Never called: vectors have no labels."""
    raise NotImplementedError


def _cosine(
    a: np.ndarray[tuple[int, ...], np.dtype[np.float32]], b: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> float:
    """Return the mean cosine over the last axis; 0 where a vector is zero, infinite or not a number."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (x * y).sum(-1) / norms
    return float(np.where(np.isfinite(cosines), cosines, 0.0).mean())


def _sentence_transformers(folder: Path | None, *, read_pooling: bool) -> tuple[str | None, bool]:
    """Return (pooling or None, normalize) from modules.json, refusing modules that would be dropped."""
    if folder is None or not (folder / "modules.json").is_file():
        return None, False
    pooling: str | None = None
    normalize = False
    modules = _read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputError("modules.json of the model holds no list of modules.")
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            if read_pooling:
                pooling = _pooling_of(_read_json(folder / str(module.get("path", "")) / "config.json"))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise InputError(
                f"The model's modules.json asks for a {kind} module, which edgellm does not build; leaving it out would "
                "change the vectors.",
            )
    return pooling, normalize


def _pooling_of(config: object) -> str:
    """Return "mean" or "cls" from a Pooling configuration, old (one flag per mode) or new (`pooling_mode`)."""
    if not isinstance(config, dict):
        raise InputError("The model's pooling configuration holds no JSON object.")
    mode = config.get("pooling_mode")
    modes = (
        [str(mode)]
        if mode
        else [
            key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for key, on in config.items()
            if key.startswith("pooling_mode_") and on is True
        ]
    )
    if len(modes) == 1 and modes[0] in ("mean", "cls"):
        return modes[0]
    raise InputError(
        f"The model asks for {' + '.join(modes) or 'no'} pooling; edgellm builds mean and cls.",
        hint="Choose another with --pooling, and check that its vectors still serve you.",
    )


def _read_json(path: Path):  # type: ignore[no-untyped-def]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} of the model can't be read: {error}.") from None
