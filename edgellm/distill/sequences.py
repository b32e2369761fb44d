"""Sequences: a one-pass student that learns from pairs, and from a teacher that answers token by token."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from edgellm.core.distill import Distilled, Score
from edgellm.core.training import Training
from edgellm.distill.finished import check_out, working, write
from edgellm.distill.labels import Teacher, label, read_labels
from edgellm.distill.pairs import SOURCE, TARGET, Encoded, Pair, encode, open_tokenizers, read_pairs, read_texts
from edgellm.distill.students import CTC
from edgellm.errors import InputError, UsageError, unknown
from edgellm.models.ctc import IGNORED, CtcConfig, CtcForSeq2Seq, CtcOutput
from edgellm.stages.disk import disk_errors
from edgellm.stages.load import load
from edgellm.stages.source import check_folder, licence_of, read_source
from edgellm.stages.texts import ensure_disjoint
from edgellm.tasks._ctc import collapse, edits
from edgellm.training.fit import fit, prepare

LABELS = "labels"
"""Folder beside the output that shards are kept in, unless another is named."""

Report = Callable[[int, int], None]


@disk_errors("What was there at --out is as it was.")
def distill_sequences(
    *, teacher: Path | None, student: str, data: Path, dev: Path, out: Path, training: Training, test: Path | None = None,
    tokenizer: Path | None = None, unlabelled: Path | None = None, labels: Path | None = None, gold: bool = True,
    beams: int = 4, slots: int = 2, longest: int = 64, part: tuple[int, int] | None = None, quiet: bool = False,
    report: Report = lambda done, total: None,
) -> Distilled | None:  # fmt: skip
    """Train a student, and write it to a folder that `edgellm build` takes.

    Args:
        teacher: folder of a model that answers token by token; None learns from the pairs alone.
        student: a key of `students.CTC`, or the folder of a student to go on with.
        data: pairs to learn from.
        dev: pairs that choose the step.
        out: folder for the student.
        training: options.
        test: pairs that are scored once, at the end.
        tokenizer: folder of tokenizer.json, and target_tokenizer.json where outputs are read otherwise; the teacher's if None.
        unlabelled: texts, one per line, that the teacher labels besides those of the pairs.
        labels: folder of shards of labels, shared by machines and kept for the next time; beside `out` if None.
        gold: whether the pairs' own targets are learned, beside the teacher's labels.
        beams: of the teacher's search.
        slots: output places for each input token, of a new student.
        longest: tokens of an input at most, of a new student.
        part: makes that part of the labels, and trains nothing.
        quiet: no bar.
        report: told how many texts are labelled, of how many.

    Returns:
        What was made; None where a part of the labels was.

    Raises:
        UsageError, InputError: an option or a file can't be used.

    """
    pairs = {
        name: read_pairs(path) for name, path in (("train", data), ("dev", dev), ("test", test)) if path is not None
    }
    ensure_disjoint(**{name: [pair.text for pair in rows] for name, rows in pairs.items()})
    guide = Teacher(teacher) if teacher is not None else None
    if guide is None and (unlabelled is not None or not gold or part is not None):
        raise UsageError("Labels need a --teacher.", hint="Name one, or leave out --unlabelled, --no-gold and --part.")
    home = tokenizer or (guide.folder if guide else None)
    if home is None:
        raise UsageError("Without a teacher there is no tokenizer.", hint="Give its folder with --tokenizer.")
    check_out(out)
    work = working(out)
    prepare(training)
    model = _student(student, home, slots=slots, longest=longest)
    _ensure_same_vocabulary(open_tokenizers(home), guide)
    labelled: list[Pair] = []
    started = time.perf_counter()
    if guide is not None:
        texts = list(
            dict.fromkeys([*(pair.text for pair in pairs["train"]), *(read_texts(unlabelled) if unlabelled else [])])
        )
        held = {_key(pair.text) for name in ("dev", "test") for pair in pairs.get(name, [])}
        room = min(guide.longest, model.config.max_position_embeddings)  # a longer text can't be learned
        texts = [
            text
            for text, ids in zip(texts, guide.read.encode_batch(texts), strict=True)
            if _key(text) not in held and len(ids.ids) <= room
        ]
        shards = label(
            guide, texts, labels or out.parent / LABELS, beams=beams, slots=model.config.slots_per_token,
            part=part or (1, 1), report=report,
        )  # fmt: skip
        if part is not None:
            return None
        labelled = read_labels(shards)
    label_seconds = time.perf_counter() - started if guide else 0.0
    learned = list(dict.fromkeys([*(pairs["train"] if gold else []), *labelled]))
    sets = {name: _encoded(rows, home, model) for name, rows in (("train", learned), ("dev", pairs["dev"]))}
    if not sets["train"].examples or not sets["dev"].examples:
        raise InputError(f"No pair is left to learn from or to choose by. {sets['train'].left_out()}")
    work.mkdir(parents=True, exist_ok=True)
    identity = {
        "student": student, "config": model.config.to_diff_dict(), "begins as": _weights(model) if student not in CTC else "",
        "train": _digest(sets["train"].examples), "dev": _digest(sets["dev"].examples),
    }  # fmt: skip
    trained = fit(
        model, training, work, identity=identity, train=sets["train"].examples, dev=sets["dev"].examples,
        collate=_Collate(model.config.pad_token_id), metric="token_errors", compute=_Errors(model.config.pad_token_id),
        reduce=_firsts, quiet=quiet, keep=True,
    )  # fmt: skip
    done = trained.status == "finished"
    found = Distilled(
        student, guide.folder.name if guide else None, (model.num_parameters(), guide.model.num_parameters() if guide else None),
        len(pairs["train"]) if gold else 0, len(labelled), sets["train"].left_out(),
        score(model, home, pairs["dev"]) if done else None, score(model, home, pairs["test"]) if done and test else None,
        trained, label_seconds,
    )  # fmt: skip
    if done and int(os.environ.get("RANK", "0")) == 0:
        write(found, lambda folder: _save(model, home, folder), licence_of(guide.folder) if guide else None, out)
    return found


def score(model: CtcForSeq2Seq, tokenizer: Path, pairs: Sequence[Pair]) -> Score:
    """Return how a student does on pairs. Inputs that it can't read count as wrong."""
    read, write = open_tokenizers(tokenizer)
    targets: dict[str, list[list[int]]] = {}
    for pair, target in zip(
        pairs, write.encode_batch([p.target for p in pairs], add_special_tokens=False), strict=True
    ):
        targets.setdefault(pair.text, []).append(target.ids)
    said = answers(model, read, list(targets))
    wrong = edited = length = 0
    for ids, right in zip(said, targets.values(), strict=True):
        nearest = min(right, key=lambda each: edits(each, ids))
        wrong += tuple(nearest) != ids
        edited += edits(nearest, ids)
        length += len(nearest)
    return Score(len(targets), 100 * wrong / len(targets), 100 * edited / length)


def answers(model: CtcForSeq2Seq, read: Tokenizer, texts: Sequence[str], batch: int = 256) -> list[tuple[int, ...]]:
    """Return the ids that a student gives for each text, by the likeliest token of each slot."""
    model.eval()
    blank, longest = model.config.pad_token_id, model.config.max_position_embeddings
    encoded = [encoding.ids[:longest] for encoding in read.encode_batch(list(texts))]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    said: list[tuple[int, ...]] = [()] * len(texts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        fed = _Collate(blank)([{"input_ids": encoded[i] or [blank]} for i in rows])
        with torch.no_grad():
            out: CtcOutput = model(**fed)
        assert out.logits is not None
        for i, ids in zip(rows, out.logits.argmax(-1).tolist(), strict=True):
            said[i] = collapse(ids[: len(encoded[i]) * model.config.slots_per_token], blank)
    return said


class _Collate:
    """Pads examples to a batch."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(each["input_ids"]) for each in examples]
        batch = {
            "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad),
            "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }
        if "labels" in examples[0]:
            labels = [torch.tensor(each["labels"]) for each in examples]
            batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return batch


def _firsts(outputs: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Return the likeliest token of each slot [batch, slots], IGNORED where it is of padding."""
    logits, mask = outputs[0], outputs[-1]
    return logits.argmax(-1).masked_fill(mask == 0, IGNORED)


class _Errors:
    """The share of edits over all tokens of the dev pairs, each pair by itself."""

    def __init__(self, blank: int) -> None:
        self.blank = blank

    def __call__(self, predicted: Any) -> dict[str, float]:
        edited = length = 0
        for slots, labels in zip(np.asarray(predicted.predictions), np.asarray(predicted.label_ids), strict=True):
            target = [id for id in labels.tolist() if id != IGNORED]
            edited += edits(target, collapse((id for id in slots.tolist() if id != IGNORED), self.blank))
            length += len(target)
        return {"token_errors": edited / length}


def _student(student: str, home: Path, *, slots: int, longest: int) -> CtcForSeq2Seq:
    if student in CTC:
        vocabulary = open_tokenizers(home)[0].get_vocab()
        pad = next((vocabulary[name] for name in ("<pad>", "[PAD]") if name in vocabulary), None)
        if pad is None:
            raise InputError(f"The tokenizer of {home} has no <pad> or [PAD], which is the blank.")
        config = CtcConfig(
            vocab_size=max(vocabulary.values()) + 1, pad_token_id=pad, slots_per_token=slots,
            max_position_embeddings=longest, **CTC[student],
        )  # fmt: skip
        return CtcForSeq2Seq(config)
    folder = Path(student)
    if not folder.is_dir():
        raise unknown("student", student, CTC, hint="It is none of these, and no folder.")
    check_folder(folder)
    source = read_source(str(folder), task="ctc-seq2seq", tokenizer=None, pooling=None, describe=lambda name: {})
    model = load(source)  # widths as they are in the weights: it may be pruned
    assert isinstance(model, CtcForSeq2Seq)
    if open_tokenizers(folder)[0].get_vocab() != open_tokenizers(home)[0].get_vocab():
        raise InputError(f"{folder} and {home} have different vocabularies.", hint="A student reads its teacher's ids.")
    return model


def _ensure_same_vocabulary(tokenizers: tuple[Tokenizer, Tokenizer], guide: Teacher | None) -> None:
    if guide is not None and guide.read.get_vocab() != tokenizers[0].get_vocab():
        raise InputError("Teacher and student have different vocabularies.", hint="Leave out --tokenizer.")


def _key(text: str) -> str:
    """Return what texts that count as one have in common."""
    return " ".join(text.lower().split())


def _encoded(rows: Sequence[Pair], home: Path, model: CtcForSeq2Seq) -> Encoded:
    read, write = open_tokenizers(home)
    vocabulary = read.get_vocab()
    unk = next((vocabulary[name] for name in ("<unk>", "[UNK]") if name in vocabulary), None)
    config = model.config
    return encode(
        rows, (read, write), slots=config.slots_per_token, longest=config.max_position_embeddings, unknown=unk
    )


def _digest(examples: Sequence[Mapping[str, list[int]]]) -> str:
    return hashlib.sha256(json.dumps(examples).encode()).hexdigest()


def _weights(model: CtcForSeq2Seq) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(model: CtcForSeq2Seq, home: Path, folder: Path) -> None:
    model.save_pretrained(folder)
    for name in (SOURCE, TARGET, "tokenizer_config.json"):
        if (home / name).is_file():
            shutil.copyfile(home / name, folder / name)
