"""Reference: the fp32 source's answers to the golden texts, which every artifact is compared with.

Runs in a process of its own. It also checks that the tokenizer gives the same ids, and that the prepared module computes
the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgellm.backends import MIN_TOKENS, Prepared
from edgellm.backends.trace import trace
from edgellm.core.signature import Feeds, Outputs, Signature
from edgellm.runtime.bundle import GOLDEN, TOKENIZER, to_json
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.faithful import ensure_faithful
from edgellm.stages.parity import ensure_parity
from edgellm.stages.prepare import Rewritten, prepare, reference
from edgellm.stages.produce import LABELLED
from edgellm.stages.source import SourceModel
from edgellm.stages.vocabulary import as_shipped
from edgellm.tasks import load_task

_FAITHFUL_CASES = 16


@dataclass(frozen=True)
class _Answer:
    """The source's way from a raw input to a value."""

    feeds: list[Feeds]
    outputs: list[Outputs]
    value: object


def write_reference(
    source: SourceModel, golden: Sequence[object], labelled: Sequence[object], max_tokens: int, folder: Path
) -> dict[str, object]:
    """Write tokenizer.json and golden.jsonl (and labelled.jsonl for labelled inputs) into `folder`.

    Returns:
        {"faithful": largest relative difference between prepared and source module,
         "tokenizer": on how many texts it was compared with transformers', how many by which class,
         "notes": what could not be rewritten or compared, and what the user should know of the model}

    Raises:
        GateError: the tokenizer that was written, or the prepared module, is not the source's.

    """
    write_tokenizer(source, folder / TOKENIZER)
    parity = ensure_parity(source, folder / TOKENIZER, max_tokens)
    tokenizer = Tokenizer(folder / TOKENIZER, max_tokens)
    task = load_task(source.task)
    module = reference(source)
    signature = Signature(source.inputs, (source.output,))

    def answer(raw: object) -> _Answer:
        encodings = task.encode(raw, tokenizer, source.options)
        feeds = [to_feeds(encoding, signature) for encoding in encodings]
        with torch.no_grad():
            results = [module(**{k: torch.from_numpy(v) for k, v in item.items()}) for item in feeds]
        outputs: list[Outputs] = [{source.output.name: result.float().numpy()} for result in results]
        value = task.decode(raw, encodings, outputs, source.options, tokenizer)
        return _Answer(feeds, outputs, value)

    checked = []
    with (folder / GOLDEN).open("w", encoding="utf-8") as lines:
        for raw in golden:
            done = answer(raw)
            checked += [item for item in done.feeds[:1] if item["input_ids"].shape[1] >= MIN_TOKENS]
            case = {"input": raw, "feeds": done.feeds, "outputs": done.outputs, "value": done.value}
            lines.write(json.dumps(to_json(case), ensure_ascii=False) + "\n")
    with (folder / LABELLED).open("w", encoding="utf-8") as lines:
        for raw in labelled:
            lines.write(json.dumps(to_json(answer(raw).value), ensure_ascii=False) + "\n")
    rewritten = prepare(source)
    sample = checked[:: max(1, len(checked) // _FAITHFUL_CASES)]
    faithful = ensure_faithful(module, _as_lowered(rewritten, source, max_tokens), sample, max_tokens)
    notes = [*parity.notes, *rewritten.notes]
    if faithful.looks_at_padding:
        notes.append(
            f"The model itself answers differently (by up to {faithful.padding:.0e}, relative) when a text is padded, "
            "as artifacts of fixed lengths pad."
        )
    return {
        "faithful": faithful.rewritten,
        "tokenizer": {"texts": parity.texts, "mismatches": len(parity.mismatches), "compared": parity.compared},
        "notes": notes,
    }


def _as_lowered(rewritten: Rewritten, source: SourceModel, max_tokens: int) -> Callable[..., torch.Tensor]:
    """Return what backends lower: the module, or the traced graph where that is what makes the mask finite."""
    if rewritten.finite_mask:
        return rewritten.module
    prepared = Prepared(rewritten.module, source.inputs, source.output, (max_tokens,), finite_mask=False)
    return trace(rewritten.module, prepared).module()


def write_tokenizer(source: SourceModel, path: Path) -> None:
    """Write the source's tokenizer without padding and truncation, which the runtime sets itself."""
    own = Path(source.tokenizer).read_text(encoding="utf-8")
    path.write_text(as_shipped(own, lowercase=source.lowercase), encoding="utf-8")
