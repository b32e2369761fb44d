"""feature-extraction: a text to one float32 vector, by pooling the encoder's last hidden state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.errors import InputError, UsageError
from edgellm.tasks import Example, _metrics, _row

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "feature-extraction"
METRIC = "cosine similarity"
EXACT = None
GOLDEN_CASES = 96
ARCHITECTURES = ("Model",)
WINDOWS = False
COLUMNS = "text, text_pair, and score, which is larger the nearer the two are"
LIBRARIES = ("scipy",)
OUTPUT = "embedding"
POOLINGS = ("mean", "cls", "none")

right = None


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the one pass of a text."""
    if not isinstance(raw, str):
        raise InputError(f"{NAME} takes a text, not {type(raw).__name__}.")
    return [tokenizer.encode(raw)]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return a float32 vector [width]; with pooling "none" one vector per token [tokens, width]."""
    return np.asarray(outputs[0][OUTPUT][0], dtype=np.float32)


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return the cosine similarity; without pooling, the mean over the tokens."""
    return _cosine(np.asarray(source, dtype=np.float64), np.asarray(other, dtype=np.float64))


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return the texts."""
    return list(texts)


def bench(text: str, options: TaskOptions) -> object:
    """Return the text."""
    return text


def read_options(facts: Facts) -> TaskOptions:
    """Return pooling and normalization as the model's own sentence-transformers files ask.

    `facts.pooling` overrides them. Without such files it is the mean over real tokens, not normalized.
    """
    if facts.pooling is not None and facts.pooling not in POOLINGS:
        raise UsageError(f"No pooling '{facts.pooling}'. Choices: {', '.join(POOLINGS)}.")
    own, normalize = _sentence_transformers(facts.folder, read_pooling=facts.pooling is None)
    chosen = facts.pooling or own or "mean"
    return TaskOptions(pooling=chosen, normalize=normalize and chosen != "none")


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, width], or [1, tokens, width] without pooling."""
    width = next((config[key] for key in ("hidden_size", "dim", "d_model", "emb_dim") if config.get(key)), None)
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


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return the two texts of a row, and how near people say they are."""
    if options.pooling == "none":
        raise InputError("Vectors of tokens have no similarity to score.", hint="Build with --pooling mean or cls.")
    first, second = (_row.text_of(_row.column(row, name, COLUMNS), name) for name in ("text", "text_pair"))
    return Example((first, second), _row.number_of(_row.column(row, "score", COLUMNS), "score"))


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the cosine similarity of the two vectors."""
    return _cosine(*(np.asarray(value, dtype=np.float64) for value in values))


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return the rank correlation and the linear one with what people said."""
    return _metrics.of_numbers(golds, predictions)


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the mean cosine over the last axis; 0 where a vector is zero, infinite or not a number."""
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
