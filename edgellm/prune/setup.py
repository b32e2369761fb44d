"""What pruning is asked for, and everything that it needs, checked before torch is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.backends import MIN_TOKENS
from edgellm.core.distill import DISTILLED
from edgellm.core.prune import structures_of
from edgellm.core.scheme import MIXED, resolve_schemes
from edgellm.core.training import Training
from edgellm.distill.pairs import read_pairs
from edgellm.errors import InputError, UsageError, unknown
from edgellm.prune.speed import host_target
from edgellm.prune.write import check_out
from edgellm.runtime import engines
from edgellm.stages import texts
from edgellm.stages.examples import read_examples, strings_in, texts_in
from edgellm.stages.plan import DEFAULT_LENGTHS, MAX_OVERLAP
from edgellm.stages.rows import read_text
from edgellm.stages.search_trial import Questions, labelled, split
from edgellm.stages.source import SourceModel, read_source
from edgellm.targets import load_target
from edgellm.tasks import Example, load_task
from edgellm.texts import default_texts

SEQUENCES = "ctc-seq2seq"
"""Task whose labelled examples are pairs."""

PRUNED = (*DISTILLED, SEQUENCES)
"""Tasks that there is a loss for; all of them can be distilled, too."""

RATE, SCHEME = 1e-4, "int8-dynamic"
"""What is taken where nothing is asked for."""

_BATCH = 32
"""Examples in a step of the training that recovers."""

_LABELLED = (".tsv", ".csv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        model: a folder written by `save_pretrained`; the model of the `demo` extra if None.
        sparsity: share of the parameters of the layers to remove, above 0 and below 1.
        structure: what may go: "heads,ffn".
        data: labelled examples of the task that choose what to remove; for feature-extraction a file of one text per line
            as well, edgellm's own texts if None.
        test: examples that the result is measured on; about a third of `data` if None.
        max_drop: points that the task's first metric may lose on them.
        recover: epochs of distillation from the source, on the examples that chose what went; 0 for none.
        rate: the highest learning rate of these; `RATE` if None.
        precision: of these; a key of `PRECISIONS`, "fp32" if None.
        out: folder to write; MODEL-pruned if None.
        rounds: in which structures are removed, and the rest scored anew.
        samples: examples at most that score.
        max_tokens: longest text that is read whole; 128 or the model's own limit if None.
        task, tokenizer, pooling: as `edgellm.build` takes them.
        measure: whether the latency of both models is measured.
        formats: to measure; all of this machine's if empty.
        scheme: to measure; `SCHEME` if None.
        seed: of everything random.
        threads: of torch on a CPU; all cores if None.
        quiet: whether nothing is said while it goes on.

    """

    model: str | None
    sparsity: float
    structure: str = "heads,ffn"
    data: str | None = None
    test: str | None = None
    max_drop: float = 1.0
    recover: int = 0
    rate: float | None = None
    precision: str | None = None
    out: str | None = None
    rounds: int = 8
    samples: int = 512
    max_tokens: int | None = None
    task: str | None = None
    tokenizer: str | None = None
    pooling: str | None = None
    measure: bool = True
    formats: tuple[str, ...] = ()
    scheme: str | None = None
    seed: int = 0
    threads: int | None = None
    quiet: bool = False

    def training(self) -> Training:
        """Return the training that recovers, of one epoch where none is asked for.

        Raises:
            UsageError: an option is out of its range.

        """
        return Training(
            epochs=max(1, self.recover), batch=_BATCH, rate=RATE if self.rate is None else self.rate,
            precision=self.precision or "fp32", seed=self.seed, threads=self.threads,
        )  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What pruning needs, all checked.

    Attributes:
        options: what was asked for.
        source: the model.
        structures: what may go.
        out: folder to write.
        max_tokens: longest text that is read whole.
        chosen: examples that may score, and are learned from.
        places: of these among the rows of `data`.
        scoring: those that are used.
        chose_on: what these are, in words.
        confirm: examples that the result is measured on.

    """

    options: Options
    source: SourceModel
    structures: tuple[str, ...]
    out: Path
    max_tokens: int
    chosen: tuple[Example, ...]
    places: tuple[int, ...]
    scoring: tuple[Example, ...]
    chose_on: str
    confirm: Questions


def checked(options: Options) -> Setup:
    """Return the setup.

    Raises:
        UsageError: an option is wrong.
        InputError: the model or a file can't be used.
        MissingDependencyError: a package is not installed.

    """
    structures = structures_of(options.structure)
    _check_numbers(options)
    if options.model is not None and ":" in options.model:
        raise InputError(
            f"{options.model} can't be pruned: a function leaves no folder to rewrite.",
            hint="Save its module with save_pretrained, and give that folder.",
        )
    source = read_source(
        options.model, task=options.task, tokenizer=options.tokenizer, pooling=options.pooling, describe=lambda name: {}
    )
    if source.task not in PRUNED:
        raise InputError(
            f"edgellm has no loss to prune a model of {source.task} by.",
            hint=f"It prunes those of {', '.join(PRUNED)}; prune the encoder before it is fine-tuned.",
        )
    if options.recover and (options.pooling is not None or options.tokenizer is not None):
        raise UsageError("--recover reads tokenizer and pooling from the model's own folder.", hint="Put them there.")
    if options.measure:
        _check_measured(options)
    elif options.formats or options.scheme is not None:
        name = "format" if options.formats else "scheme"
        raise UsageError(f"--{name} has no use with --no-measure.", hint="Leave it out.")
    out = Path(options.out or f"{source.name}-pruned")
    check_out(out)
    source, longest = _lengths(source, options.max_tokens)
    chosen, places, about, confirm = _examples(options, source)
    texts.ensure_disjoint(data=texts_in(chosen), test=_texts(confirm))
    if options.recover and len({texts.is_held_back("\n".join(strings_in(each.inputs))) for each in chosen}) < 2:
        raise InputError(
            f"--recover chooses its best step by a tenth of the examples, and there are {len(chosen)} in all.",
            hint="Give more with --data.",
        )
    scoring = chosen[:: max(1, -(-len(chosen) // options.samples))]
    return Setup(
        options, source, structures, out, longest, tuple(chosen), tuple(places), tuple(scoring),
        f"{len(scoring)} of {len(chosen)} examples of {about}", confirm,
    )  # fmt: skip


def _check_measured(options: Options) -> None:
    """Raise where what was left could not be timed in the end."""
    target = load_target(host_target())
    for fmt in options.formats:
        if fmt not in target.formats:
            raise unknown("format", fmt, target.formats, hint=f"{target.name} takes no other.")
    backends = {fmt: target.backend(fmt) for fmt in options.formats or target.formats}
    for fmt, name in resolve_schemes((options.scheme or SCHEME,), dict.fromkeys(backends, ""), backends).items():
        if name == MIXED:
            raise UsageError("--scheme mixed can't be timed here.", hint="Name one scheme.")
        engines.require(fmt)


def _check_numbers(options: Options) -> None:
    if not 0 < options.sparsity < 1:
        raise UsageError(
            f"--sparsity is {options.sparsity:g}; it is a share of the layers' parameters, above 0 and below 1."
        )
    if not options.max_drop >= 0:
        raise UsageError(f"--max-drop is {options.max_drop:g}; it is 0 points or more.")
    if options.recover < 0:
        raise UsageError(f"--recover is {options.recover}; it is 0 epochs or more.")
    for name, value in (("rate", options.rate), ("precision", options.precision)):
        if value is not None and not options.recover:
            raise UsageError(f"--{name} has no use without --recover.", hint="--recover 5 trains for five epochs.")
    options.training()
    if options.rounds < 1 or options.samples < 1:
        raise UsageError("--rounds and --samples are 1 or more.")
    if options.measure and options.max_tokens is not None and options.max_tokens <= MIN_TOKENS:
        raise UsageError(
            f"--max-tokens is {options.max_tokens}; what is built to be timed takes more than {MIN_TOKENS}.",
            hint="Read more, or use --no-measure.",
        )
    if options.test is not None and options.data is None:
        raise UsageError("--test has no use without --data.", hint="--data takes examples that choose what to remove.")


def _lengths(source: SourceModel, asked: int | None) -> tuple[SourceModel, int]:
    bound = source.max_positions
    longest = min(DEFAULT_LENGTHS[-1], bound or DEFAULT_LENGTHS[-1]) if asked is None else asked
    if longest < 3 or (bound is not None and longest > bound):
        raise UsageError(f"--max-tokens is {longest}; it goes from 3 to {bound or 'any number'}.")
    if load_task(source.task).WINDOWS:
        options = dataclasses.replace(source.options, overlap=min(longest // 2, MAX_OVERLAP))
        source = dataclasses.replace(source, options=options)
    return source, longest


def _examples(options: Options, source: SourceModel) -> tuple[list[Example], list[int], str, Questions]:
    """Return the examples that choose, their places in the file, what they are, and those that are measured on."""
    if options.data is None:
        if source.task != "feature-extraction":
            raise UsageError(
                f"Pruning a model of {source.task} needs labelled examples.",
                hint=f"Give them with --data: {'pairs as edgellm distill takes them, or ' if source.task == SEQUENCES else ''}"
                f"rows with the columns {load_task(source.task).COLUMNS}.",
            )
        ours = [Example((text,), None) for text in default_texts("calibration")]
        return ours, [], "edgellm's own texts", Questions("edgellm's own texts", tuple(default_texts("golden")))
    found, name = read_data(Path(options.data), source), Path(options.data).name
    if options.test is not None:
        return (
            found,
            list(range(len(found))),
            name,
            questions_of(Path(options.test).name, read_data(Path(options.test), source)),
        )
    ours, others = split(found)
    if not ours or not others:
        raise InputError(f"{name} holds too few examples to choose by some and measure on others.")
    own = set(map(id, ours))
    places = [place for place, example in enumerate(found) if id(example) in own]
    return ours, places, name, questions_of(f"{name}, about a third that chose nothing", others)


def read_data(path: Path, source: SourceModel) -> list[Example]:
    """Return the examples in a file: rows of labelled data, pairs for ctc-seq2seq, or lines for feature-extraction.

    Pairs of one text are one example, of which any target is right.

    Raises:
        InputError: it can't be read, or a row does not fit the task.

    """
    if source.task == "feature-extraction" and path.is_file() and path.suffix.lower() not in _LABELLED:
        lines = dict.fromkeys(texts.read_calibration(path))
        return [Example((line,), None) for line in lines]
    if source.task == SEQUENCES and _is_pairs(path):
        targets: dict[str, list[str]] = {}
        for pair in read_pairs(path):
            targets.setdefault(pair.text, []).append(" ".join(pair.target.split()))
        return [Example((text,), tuple(dict.fromkeys(right))) for text, right in targets.items()]
    return read_examples(path, load_task(source.task), source.options)


def _is_pairs(path: Path) -> bool:
    """Tell whether a file holds a text and its target on each line, as `edgellm distill` reads them, without a header."""
    if not path.is_file() or path.suffix.lower() not in (".tsv", ".txt"):
        return False
    first = read_text(path, "data").partition("\n")[0].rstrip("\r")
    return not {"text", "target"} <= set(first.split("\t"))


def questions_of(about: str, examples: Sequence[Example]) -> Questions:
    """Return what is asked on; of texts without labels, agreement with the source is what counts."""
    if examples[0].gold is None:
        return Questions(about, tuple(example.inputs[0] for example in examples))
    return labelled(about, examples)


def _texts(questions: Questions) -> list[str]:
    return [
        text
        for text in texts_in(questions.examples or [Example((raw,), None) for raw in questions.inputs])
        if text.strip()
    ]
