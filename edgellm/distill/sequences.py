"""Sequences: a one-pass student that learns from pairs, and from a teacher's answers."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from edgellm.core.distill import Distilled
from edgellm.core.training import Training
from edgellm.distill.finished import check_out, working, write
from edgellm.distill.kinds import OnePass, fresh, kind_of, opened
from edgellm.distill.labels import label, read_labels
from edgellm.distill.onepass import Collate, Errors, score
from edgellm.distill.pairs import SOURCE, TARGET, Encoded, Pair, encode, open_tokenizers, read_pairs, read_texts
from edgellm.distill.risk import Risky
from edgellm.distill.softened import Softened
from edgellm.distill.students import STUDENTS
from edgellm.distill.teachers import Autoregressive, OnePassTeacher, Teacher, digest, open_teacher
from edgellm.errors import InputError, UsageError, unknown
from edgellm.models.ctc import CtcForSeq2Seq
from edgellm.stages.disk import disk_errors
from edgellm.stages.source import licence_of
from edgellm.stages.texts import ensure_disjoint
from edgellm.training.fit import fit, hush, prepare
from edgellm.training.processes import count, rank, wait

LABELS = "labels"
"""Folder beside the output that shards are kept in, unless another is named."""

BEAMS, SLOTS, LONGEST, TEMPERATURE = 4, 2, 64, 2.0
"""What is taken where nothing is asked for."""

Report = Callable[[int, int], None]


@disk_errors("What was there at --out is as it was.")
def distill_sequences(
    *, teacher: Path | None, student: str, data: Path, dev: Path, out: Path, training: Training, test: Path | None = None,
    tokenizer: Path | None = None, unlabelled: Path | None = None, labels: Path | None = None, gold: bool = True,
    beams: int | None = None, slots: int | None = None, longest: int | None = None, refinements: int | None = None,
    soft: float = 0.0, temperature: float | None = None, risk: float = 0.0, part: tuple[int, int] | None = None,
    quiet: bool = False, report: Report = lambda done, total: None,
) -> Distilled | None:  # fmt: skip
    """Train a student, and write it to a folder that `edgellm build` takes.

    Args:
        teacher: folder of a model that answers token by token, or of a one-pass model; None learns from the pairs alone.
        student: a key of `STUDENTS`, or the folder of a student to go on with.
        data: pairs to learn from.
        dev: pairs that choose the step.
        out: folder for the student.
        training: options.
        test: pairs that are scored once, at the end.
        tokenizer: folder of tokenizer.json, and target_tokenizer.json where outputs are read otherwise; the teacher's if None.
        unlabelled: texts, one per line, that the teacher labels besides those of the pairs.
        labels: folder of shards of labels, shared by machines and kept for the next time; beside `out` if None.
        gold: whether the pairs' own targets are learned, beside the teacher's labels.
        beams: of the search of a teacher that answers token by token; 4 if None.
        slots: output places for each input token, of a new student; 2 if None.
        longest: tokens of an input at most, of a new student; 64 if None.
        refinements: passes over the output after the first, of a mask-predict student; none, or its own, if None.
        soft: weight of the teacher's probabilities beside the labels' 1 (see `softened`).
        temperature: that the logits of both are divided by then; 2 if None.
        risk: weight of the outputs that would be wrong, beside the labels' 1 (see `risk`); they choose the step then.
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
    _ensure_used(
        teacher,
        {"unlabelled": unlabelled, "labels": labels, "no-gold": not gold, "beams": beams, "part": part, "soft": soft},
    )
    heat = _heat(soft, temperature, beams)
    if not 0 <= risk <= 1000:
        raise UsageError(f"--risk is {risk:g}; it goes from 0 to 1000.")
    hush()
    guide = open_teacher(teacher) if teacher is not None else None
    if isinstance(guide, OnePassTeacher) and beams is not None:
        raise UsageError("--beams has no use for a teacher that answers in one pass.", hint="Leave it out.")
    home = tokenizer or (guide.folder if guide else None)
    if home is None:
        raise UsageError("Without a teacher there is no tokenizer.", hint="Give its folder with --tokenizer.")
    check_out(out)
    work = working(out)
    prepare(training)
    model = _student(student, home, slots=slots, longest=longest, refinements=refinements)
    _ensure_same_vocabulary(open_tokenizers(home), guide)
    learner: nn.Module = model
    if guide is not None and soft:
        learner = Softened(model, guide, weight=soft, temperature=heat, target=pairs["train"][0].target)
    if risk:
        if not isinstance(model, CtcForSeq2Seq):
            raise UsageError("--risk has no use for a student that is no CTC model.", hint="Leave it out.")
        learner = Risky(learner, blank=model.config.pad_token_id, weight=risk)
    labelled, unsaid = list[Pair](), ""
    started = time.perf_counter()
    if guide is not None:
        held = {_key(pair.text) for name in ("dev", "test") for pair in pairs.get(name, [])}
        given = [*(pair.text for pair in pairs["train"]), *(read_texts(unlabelled) if unlabelled else [])]
        asked = [text for text in dict.fromkeys(given) if _key(text) not in held]
        readable = _readable(asked, guide, model)
        make = partial(
            label, guide, readable, labels or out.parent / LABELS, beams=BEAMS if beams is None else beams,
            slots=model.config.slots_per_token,
        )  # fmt: skip
        if part is not None:
            make(part=part, report=report)
            return None
        make(part=(rank() + 1, count()), report=report)
        wait()
        labelled = read_labels(make())
        unsaid = _unsaid(len(asked) - len(readable), len(readable) - len(labelled))
    label_seconds = time.perf_counter() - started if guide else 0.0
    learned = list(dict.fromkeys([*(pairs["train"] if gold else []), *labelled]))
    train, chosen = _encoded(learned, home, model, guide if soft else None), _encoded(pairs["dev"], home, model, None)
    if not train.examples or not chosen.examples:
        raise InputError(f"No pair is left to learn from or to choose by. {train.left_out()}")
    work.mkdir(parents=True, exist_ok=True)
    identity = {
        "student": student, "config": model.config.to_diff_dict(),
        "begins as": _weights(model) if student not in STUDENTS else "",
        "train": _digest(train.examples), "dev": _digest(chosen.examples),
        **({"soft": [soft, heat, digest(guide)]} if guide is not None and soft else {}), **({"risk": risk} if risk else {}),
    }  # fmt: skip
    errors = Errors(kind_of(model), model.config.pad_token_id)
    trained = fit(
        learner, training, work, identity=identity, train=train.examples, dev=chosen.examples,
        collate=Collate(model.config.pad_token_id), metric="errors" if risk else "token_errors", compute=errors,
        reduce=errors.reduce, quiet=quiet, keep=True,
    )  # fmt: skip
    done = trained.status == "finished"
    found = Distilled(
        student, guide.folder.name if guide else None, (model.num_parameters(), guide.model.num_parameters() if guide else None),
        len(pairs["train"]) if gold else 0, len(labelled), " ".join(filter(None, (train.left_out(), unsaid))),
        score(model, home, pairs["dev"]) if done else None, score(model, home, pairs["test"]) if done and test else None,
        trained, label_seconds, soft, heat if soft else None, risk,
    )  # fmt: skip
    if done and rank() == 0:
        write(found, lambda folder: _save(model, home, folder), licence_of(guide.folder) if guide else None, out)
    return found


def _ensure_used(teacher: Path | None, options: Mapping[str, object]) -> None:
    """Raise where what belongs to a teacher was given without one."""
    given = [f"--{name}" for name, value in options.items() if value is not None and value is not False and value != 0]
    if teacher is None and given:
        raise UsageError(
            f"{' and '.join(given)} need{'s' if len(given) == 1 else ''} a --teacher.",
            hint="Name one, or leave it out.",
        )


def _heat(soft: float, temperature: float | None, beams: int | None) -> float:
    """Return the temperature, where the options are in their range."""
    heat = TEMPERATURE if temperature is None else temperature
    for name, value, low, high in (
        ("soft", soft, 0.0, 1000.0), ("temperature", heat, 0.1, 100.0), ("beams", 1 if beams is None else beams, 1, 64),
    ):  # fmt: skip
        if not low <= value <= high:
            raise UsageError(f"--{name} is {value:g}; it goes from {low:g} to {high:g}.")
    if temperature is not None and not soft:
        raise UsageError(
            "--temperature has no use without --soft.", hint="--soft 1 learns the teacher's probabilities."
        )
    return heat


def _readable(texts: Sequence[str], guide: Teacher, model: OnePass) -> list[str]:
    """Return the texts that both can read whole."""
    room = min(guide.longest, model.config.max_position_embeddings)
    encoded = guide.read.encode_batch(list(texts))
    return [text for text, encoding in zip(texts, encoded, strict=True) if len(encoding.ids) <= room]


def _unsaid(too_long: int, unanswered: int) -> str:
    """Return which texts have no label of the teacher, in a sentence, or nothing."""
    kinds = [
        f"{number} {what}"
        for number, what in (
            (too_long, "too long for it or the student"),
            (unanswered, "to which it said nothing, or came to no end"),
        )
        if number
    ]
    return f"Without an answer of the teacher: {', '.join(kinds)}." if kinds else ""


def _student(student: str, home: Path, *, slots: int | None, longest: int | None, refinements: int | None) -> OnePass:
    if student in STUDENTS:
        vocabulary = open_tokenizers(home)[0].get_vocab()
        model = fresh(
            student,
            vocabulary,
            slots=SLOTS if slots is None else slots,
            longest=LONGEST if longest is None else longest,
        )
    else:
        folder = Path(student)
        if not folder.is_dir():
            raise unknown("student", student, STUDENTS, hint="It is none of these, and no folder.")
        for name, value in (("slots", slots), ("longest", longest)):
            if value is not None:
                raise UsageError(
                    f"--{name} has no use for {folder}: a student that is a folder keeps its own.", hint="Leave it out."
                )
        model = opened(folder)
        if open_tokenizers(folder)[0].get_vocab() != open_tokenizers(home)[0].get_vocab():
            raise InputError(
                f"{folder} and {home} have different vocabularies.", hint="A student reads its teacher's ids."
            )
    if refinements is not None:
        kind_of(model).refine(model, refinements)
    return model


def _ensure_same_vocabulary(tokenizers: tuple[Tokenizer, Tokenizer], guide: Teacher | None) -> None:
    if guide is not None and guide.read.get_vocab() != tokenizers[0].get_vocab():
        raise InputError("Teacher and student have different vocabularies.", hint="Leave out --tokenizer.")


def _key(text: str) -> str:
    """Return what texts that count as one have in common."""
    return " ".join(text.lower().split())


def _encoded(rows: Sequence[Pair], home: Path, model: OnePass, guide: Teacher | None) -> Encoded:
    """Return pairs as ids; where there is a guide, those that it can read as well."""
    read, write = open_tokenizers(home)
    vocabulary = read.get_vocab()
    unk = next((vocabulary[name] for name in ("<unk>", "[UNK]") if name in vocabulary), None)
    config = model.config
    longest, most = config.max_position_embeddings, None
    if guide is not None:
        longest = min(longest, guide.longest)
    if isinstance(guide, Autoregressive) and rows:
        most = guide.longest + 1 - len(guide.begin(rows[0].target))
    return encode(
        rows, (read, write), slots=config.slots_per_token, longest=longest, unknown=unk, places=kind_of(model).places,
        most=most,
    )  # fmt: skip


def _digest(examples: Sequence[Mapping[str, list[int]]]) -> str:
    return hashlib.sha256(json.dumps(examples).encode()).hexdigest()


def _weights(model: OnePass) -> str:
    summed = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        summed.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return summed.hexdigest()


def _save(model: OnePass, home: Path, folder: Path) -> None:
    model.save_pretrained(folder)
    for name in (SOURCE, TARGET, "tokenizer_config.json"):
        if (home / name).is_file():
            shutil.copyfile(home / name, folder / name)
