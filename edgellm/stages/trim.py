"""Trim: writes a source with fewer pieces and fewer rows, and proves that given texts are answered as before.

Runs in a process of its own. Whatever has a row per piece is cut by name in the safetensors files: the embedding table, and
the head and its bias where the model predicts pieces. Every other tensor keeps its bytes, whichever task the build is for.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import nn

from edgellm.core.signature import Signature
from edgellm.errors import EdgellmError, InputError
from edgellm.runtime.bundle import TOKENIZER
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.faithful import to_tensors
from edgellm.stages.prepare import reference
from edgellm.stages.source import SourceModel, positions_follow_padding
from edgellm.stages.tables import cut_weights, tables
from edgellm.stages.trimmed import MODEL, Cut
from edgellm.stages.vocabulary import (
    Trimmed,
    as_shipped,
    count_changed,
    ensure_same_pieces,
    follow,
    named_ids,
    trim,
    used_ids,
)

TOLERANCE = 1e-6
"""Largest difference of what has a number per piece, relative to the largest: a smaller matmul may sum in another order.

Everything else is compared to the bit."""

_SAMPLES = 64
"""Texts at most whose outputs are compared, evenly spread; pieces are compared on all."""

_LONGEST = 512
"""Tokens at most of such a text."""


def write_trimmed(source: SourceModel, texts: Sequence[str], golden: Sequence[str], folder: Path) -> Cut:
    """Write a source trimmed to `texts` into `folder`/model.

    Raises:
        InputError: the model or its tokenizer can't be trimmed.
        EdgellmError: the trimmed source does not give the pieces or the outputs of the whole one.

    """
    model = reference(source)
    inner = _transformer(model)
    found = tables(inner)
    settings = _settings(source, inner, found.rows)
    own = Path(source.tokenizer).read_text(encoding="utf-8")
    whole = as_shipped(own, lowercase=source.lowercase)
    trimmed = trim(own, used_ids(whole, texts) | _fixed(source, settings))
    shipped = Trimmed(as_shipped(trimmed.tokenizer, lowercase=source.lowercase), trimmed.kept)
    ensure_same_pieces(whole, shipped, texts)
    out = folder / MODEL
    out.mkdir()
    _write_settings(source, settings, trimmed, found.rows, out)
    cut_weights(_folder(source), out, found, trimmed.kept)
    sample = texts[:: -(-len(texts) // _SAMPLES)]
    exact = ensure_same_outputs(model, _load_again(source, out), _feeds(source, whole, sample), trimmed.kept)
    return Cut(
        rows=(found.rows, len(trimmed.kept)),
        numbers=found.numbers * (found.rows - len(trimmed.kept)),
        tokenizer_bytes=(len(whole.encode()), len(shipped.tokenizer.encode())),
        proven=(len(texts), len(sample)),
        exact=exact,
        changed=(count_changed(whole, shipped, golden), len(golden)),
    )


def ensure_same_outputs(
    before: nn.Module, after: nn.Module, feeds: Sequence[Mapping[str, torch.Tensor]], kept: Sequence[int]
) -> bool:
    """Check that two modules answer alike.

    Args:
        before: takes `feeds`.
        after: takes them with the new ids.
        feeds: int64 tensors [1, tokens] by name, with the old ids.
        kept: old id of each new one.

    Returns:
        whether all are the same to the bit; what has a number per piece may differ by TOLERANCE.

    Raises:
        EdgellmError: an output differs.

    """
    place = torch.tensor(kept)
    exact = True
    with torch.no_grad():
        for item in feeds:
            expected = before(**item)
            got = after(**{**item, "input_ids": torch.searchsorted(place, item["input_ids"])})
            per_piece = expected.shape[-1] != got.shape[-1] == len(kept)
            expected = expected[..., place] if per_piece else expected
            same = torch.equal(expected, got)
            exact &= same
            worst = float((expected - got).abs().max() / expected.abs().max()) if expected.shape == got.shape else 1.0
            if not same and not (per_piece and worst <= TOLERANCE):
                raise EdgellmError(
                    f"The trimmed model answers a text of the corpus differently by {worst:.1e}, relative to the largest "
                    "number, and nothing was built.",
                    hint="Please report it with the model's config.json; without --vocab-from the model builds.",
                )
    return exact


def _folder(source: SourceModel) -> Path:
    assert source.folder is not None  # functions are refused before
    return Path(source.folder)


def _load_again(source: SourceModel, out: Path) -> nn.Module:
    """Return the trimmed source, loaded as a build does.

    Raises:
        InputError: it can't be: something else has a row per piece.

    """
    try:
        return reference(dataclasses.replace(source, folder=str(out)))
    except InputError as error:
        raise InputError(
            f"{source.name} can't be trimmed; what was left of it does not load: {error}",
            hint="Leave out --vocab-from.",
        ) from None


def _transformer(model: nn.Module) -> nn.Module:
    """Return the transformers model within a task's module."""
    import transformers

    return next(m for m in model.modules() if isinstance(m, transformers.PreTrainedModel))


def _settings(source: SourceModel, model: nn.Module, rows: int) -> str:
    """Return the source's config.json, with the ids that it leaves to its class's defaults.

    Raises:
        InputError: its vocab_size is not that of the table.

    """
    data = json.loads((_folder(source) / "config.json").read_text(encoding="utf-8"))
    if data.get("vocab_size") != rows:
        raise InputError(
            f"{source.name} can't be trimmed: its table has {rows} rows, and its config.json does not say so."
        )
    defaults = {key: value for key, value in model.config.to_dict().items() if key.endswith("_token_id")}
    return json.dumps({**defaults, **data})


def _fixed(source: SourceModel, settings: str) -> set[int]:
    """Return the ids that a source names, whatever the texts are."""
    config = json.loads(settings)
    ids = named_ids(settings) | {source.inputs[0].pad}
    if positions_follow_padding(config):
        ids |= set(range(int(config.get("pad_token_id") or 0) + 1))
    return ids


def _write_settings(source: SourceModel, settings: str, trimmed: Trimmed, rows: int, out: Path) -> None:
    """Write everything but the weights: what a build reads of a source."""
    folder, tokenizer = _folder(source), Path(source.tokenizer)
    (out / "config.json").write_text(follow(settings, trimmed.numbers, rows), encoding="utf-8")
    (out / TOKENIZER).write_text(trimmed.tokenizer, encoding="utf-8")
    own = tokenizer.with_name("tokenizer_config.json")
    if own.is_file():
        (out / own.name).write_text(follow(own.read_text(encoding="utf-8"), trimmed.numbers, rows), encoding="utf-8")
    for name in ("sentence_bert_config.json", "modules.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if not (out / "modules.json").is_file():
        return
    for module in json.loads((out / "modules.json").read_text(encoding="utf-8")):
        place = PurePosixPath(str(module.get("path", "")))
        if place.is_absolute() or ".." in place.parts:
            raise InputError(f"modules.json of the model points out of its folder, to {place}.")
        if place.parts and (folder / place / "config.json").is_file():
            (out / place).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / place / "config.json", out / place / "config.json")


def _feeds(source: SourceModel, tokenizer: str, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """Return the feeds of texts, cut to what the model takes."""
    longest = min(source.max_positions or _LONGEST, _LONGEST)
    signature = Signature(source.inputs, (source.output,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TOKENIZER
        path.write_text(tokenizer, encoding="utf-8")
        encoder = Tokenizer(path, longest)
    return [to_tensors(to_feeds(encoder.encode(text), signature)) for text in texts]
