"""Plan: everything about a build resolved and checked before anything is loaded, in milliseconds and without torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.backends import MIN_TOKENS, TOOLS
from edgellm.backends._vendor_sdks import ensure_sdk
from edgellm.core.precision import Precisions, read_precisions
from edgellm.core.scheme import CORRECTING, FORMATS, MIXED, RANGES, Tuning, resolve_schemes
from edgellm.core.target import Target
from edgellm.errors import InputError, UsageError, unknown
from edgellm.runtime import engines
from edgellm.stages import package, texts
from edgellm.stages.cache import versions
from edgellm.stages.examples import read_examples, texts_in
from edgellm.stages.jobs import available_memory
from edgellm.stages.source import Describe, SourceModel, read_source
from edgellm.targets import load_target
from edgellm.tasks import Example, load_task
from edgellm.texts import default_texts
from edgellm.toolchain import vela

DEFAULT_LENGTHS = (16, 32, 64, 128)
"""Token counts that are served without padding to more, special tokens included."""

MAX_DROP = 1.0
"""Points that a metric may lose, where the user did not say."""

MAX_CALIBRATION = 512
"""Texts at most that a build is tuned on: more takes time and changes nothing."""

MIN_GOLDEN = 32
"""Golden texts at least: a mean over fewer is no gate."""

MAX_OVERLAP = 128
"""Tokens at most that neighbouring windows of a long text share, as in the transformers pipeline."""

PROTOBUF_LIMIT = 2**31 - 1
"""ONNX files are protobuf and TFLite files flatbuffers; neither holds an fp32 model beyond this many bytes."""


@dataclass(frozen=True)
class Plan:
    """Everything resolved before anything is loaded.

    Attributes:
        source, target, formats: what is built from what.
        precisions: format to what is quantized how.
        buckets: token counts to serve, ascending.
        min_agreement: the gate.
        min_exact: its share of answers that are the source's to the letter; None where answers are no texts.
        max_drop: points that the task's first metric may lose on labelled examples, unless that may be noise.
        calibration: texts that quantization is tuned on; none if the scheme has no use for them.
        own_calibration: whether they are the user's.
        ranges: how a static scheme chooses the range of an activation, a key of `core.scheme.RANGES`.
        golden: raw inputs of the golden cases.
        labelled: examples with labels, for the task's own metric.
        out: the bundle's folder.
        corpus: what the vocabulary is to be trimmed by, before anything else; None leaves it whole.
        max_fallback: share of the cost, or of the operators, that may stay outside the delegate; None where only NPUs are
            asked to take what multiplies matrices.
        tuning: what calibration texts change besides.
        notes: what the user asked for and did not get in full.

    """

    source: SourceModel
    target: Target
    formats: tuple[str, ...]
    precisions: dict[str, Precisions]
    buckets: tuple[int, ...]
    min_agreement: float
    max_drop: float
    calibration: tuple[str, ...]
    own_calibration: bool
    golden: tuple[object, ...]
    labelled: tuple[Example, ...]
    out: Path
    corpus: texts.Corpus | None = None
    notes: tuple[str, ...] = ()
    ranges: str = "mse"
    max_fallback: float | None = None
    min_exact: float | None = None
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def max_tokens(self) -> int:
        """The longest text that is not cut."""
        return self.buckets[-1]


def resolve(
    model: str | None, *, target: str, formats: Sequence[str], schemes: Sequence[str], task: str | None,
    tokenizer: str | None, pooling: str | None, calibration: str | os.PathLike[str] | None, ranges: str | None,
    golden: str | os.PathLike[str] | None, eval: str | os.PathLike[str] | None, max_drop: float | None,
    min_agreement: float, seq_len: Sequence[int] | None, out: str | os.PathLike[str] | None,
    vocab_from: str | os.PathLike[str] | None, describe: Describe,
    layers: str | os.PathLike[str] | None = None, max_fallback: float | None = None,
    alternatives: int = 1, min_exact: float | None = None, tuning: Tuning | None = None,
) -> Plan:  # fmt: skip
    """Return the plan, having checked everything that can be checked without torch.

    Raises:
        UsageError: an option is wrong, or a combination impossible.
        InputError: a model or a file can't be used.
        MissingDependencyError: a package is not installed.

    """
    for option, value in (("MODEL", model), ("--out", out), ("--tokenizer", tokenizer), ("--vocab-from", vocab_from)):
        if value is not None and not str(value):
            raise UsageError(f"{option} is empty.", hint="Leave it out, or name something.")
    aim = load_target(target)
    chosen = _formats(aim, formats)
    for fmt in chosen:
        ensure_sdk(aim.delegates[fmt])
    how = _precisions(schemes, layers, aim, chosen)
    if not 0 <= min_agreement <= 1:
        raise UsageError(f"--min-agreement is {min_agreement:g}; it goes from 0 to 1.")
    if min_exact is not None and not 0 <= min_exact <= 1:
        raise UsageError(f"--min-exact is {min_exact:g}; it goes from 0 to 1.")
    if max_drop is not None and (eval is None or not max_drop >= 0):
        raise UsageError(
            "--max-drop has no use without --eval." if eval is None else f"--max-drop is {max_drop:g}; it is 0 or more."
        )
    samples = texts.read_calibration(Path(calibration)) if calibration is not None else default_texts("calibration")
    tuning = tuning or Tuning()
    for fmt in chosen if tuning.correct_bias else ():
        if not any(scheme.corrected(aim.backend(fmt)) for scheme in how[fmt].schemes):
            raise UsageError(
                f"--correct-bias has no use for {fmt} in {how[fmt].name} on {aim.name}: "
                + (
                    "no weights become integers."
                    if aim.backend(fmt) in CORRECTING
                    else "its converter rounds by itself."
                ),
                hint="Leave it out, or that format.",
            )
    calibrates = any(how[fmt].calibrates(aim.backend(fmt), tuning) for fmt in chosen)
    named = " and ".join(sorted({each.name for each in how.values()}))
    if calibration is not None and not calibrates:
        off = [option for option, on in (("--no-equalize", tuning.equalize), ("--no-fit", tuning.fit)) if not on]
        without = f" with {' and '.join(off)}" if off else ""
        raise UsageError(
            f"--calibration has no use: {named} in {', '.join(chosen)}{without} runs no samples.", hint="Leave it out."
        )
    if ranges is not None and ranges not in RANGES:
        raise unknown("way to choose ranges", ranges, RANGES)
    if ranges is not None and not any(each.name != "a16w8" and each.static for each in how.values()):
        raise UsageError(
            f"--ranges has no use: {named} has no calibrated 8-bit ranges.", hint="Use --scheme int8-static."
        )
    corpus = texts.read_corpus(Path(vocab_from)) if vocab_from is not None else None
    if max_fallback is not None and not 0 <= max_fallback <= 1:
        raise UsageError(f"--max-fallback is {max_fallback:g}; it is a share, from 0 to 1.")
    if aim.npu is not None:
        vela.require()
    for fmt in chosen:
        versions(TOOLS[aim.backend(fmt)])
    for fmt in chosen:
        if fmt in engines.engine_names():
            engines.require(fmt)  # the gate runs it here
    if out is not None:
        package.check_out(Path(out))
    source = read_source(
        model, task=task, tokenizer=tokenizer, pooling=pooling, describe=describe, alternatives=alternatives
    )
    if alternatives != source.options.alternatives:
        raise UsageError(f"--alternatives has no use: {source.task} has none.", hint="It belongs to ctc-seq2seq.")
    if corpus is not None and source.folder is None:
        raise InputError(
            f"The vocabulary of {model} can't be trimmed: a function leaves no folder to rewrite.",
            hint="Save its module with save_pretrained, and build that folder.",
        )
    plugin = load_task(source.task)
    if min_exact is not None and plugin.EXACT is None:
        raise UsageError(f"--min-exact has no use: the answers of {source.task} are no texts.", hint="Leave it out.")
    labelled = read_examples(Path(eval), plugin, source.options) if eval is not None else []
    checked, notes = _golden(golden, plugin.GOLDEN_CASES)
    texts.ensure_disjoint(
        golden=checked,
        calibration=samples,
        evaluation=texts_in(labelled),
    )
    if corpus is not None:
        texts.ensure_disjoint(evaluation=texts_in(labelled), corpus=corpus.texts)
    place = Path(out) if out is not None else Path(f"{source.name}-{aim.name}")
    package.check_out(place)
    buckets = _buckets(seq_len, source.max_positions, aim.seq_len or DEFAULT_LENGTHS)
    if plugin.WINDOWS:
        overlap = min(buckets[-1] // 2, MAX_OVERLAP)
        source = dataclasses.replace(source, options=dataclasses.replace(source.options, overlap=overlap))
    check_size(source, chosen if corpus is None else ())  # what is trimmed may fit
    used = samples[:: -(-len(samples) // MAX_CALIBRATION)] if calibrates else []
    cut = calibrates and len(used) < len(samples)
    return Plan(
        source, aim, chosen, how, buckets, min_agreement,
        MAX_DROP if max_drop is None else max_drop, calibration=tuple(used),
        own_calibration=calibration is not None, golden=tuple(plugin.golden(checked, source.options)),
        labelled=tuple(labelled), out=place, corpus=corpus, max_fallback=max_fallback, tuning=tuning,
        min_exact=plugin.EXACT if min_exact is None else min_exact, ranges=ranges or next(iter(RANGES)),
        notes=(*((f"{len(used)} of {len(samples)} calibration texts were used, evenly spread.",) if cut else ()), *notes),
    )  # fmt: skip


def _precisions(
    asked: Sequence[str], layers: str | os.PathLike[str] | None, aim: Target, formats: tuple[str, ...]
) -> dict[str, Precisions]:
    """Return the scheme of each layer in each format, checked against its backend."""
    backends = {fmt: aim.backend(fmt) for fmt in formats}
    if layers is not None and not asked:
        asked = [MIXED]
    names = resolve_schemes(asked, {fmt: aim.scheme_of(fmt) for fmt in formats}, backends)
    mixed = [fmt for fmt, name in names.items() if name == MIXED]
    if layers is not None and not mixed:
        raise UsageError(f"--layers has no use with --scheme {' '.join(asked)}.", hint=f"Use --scheme {MIXED}.")
    if layers is None and mixed:
        raise UsageError(
            f"--scheme {MIXED} needs --layers FILE, which says the scheme of each layer.",
            hint='It holds: default = "int8-dynamic", and [layers] with "NAME" = "SCHEME".',
        )
    own = None if layers is None else read_precisions(layers)
    precisions = {fmt: own if own and name == MIXED else Precisions(name) for fmt, name in names.items()}
    for fmt in mixed:
        precisions[fmt].ensure_expressed(fmt, backends)
    return precisions


def _golden(path: str | os.PathLike[str] | None, cases: int) -> tuple[list[str], tuple[str, ...]]:
    """Return `cases` golden texts at most, the user's or edgellm's own, and what there is to note of them."""
    if path is None:
        return default_texts("golden")[:cases], ()
    own = list(dict.fromkeys(texts.read_golden(Path(path))))
    if len(own) < MIN_GOLDEN:
        raise InputError(
            f"The golden file {path} holds {len(own)} different texts; a gate on fewer than {MIN_GOLDEN} proves little.",
            hint="Leave --golden out to be gated on edgellm's own texts.",
        )
    used = own[:: -(-len(own) // cases)]
    return used, (f"{package.GIVEN_GOLDEN} {len(used)} texts of {Path(path).name}, which the bundle holds.",)


def _formats(target: Target, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the formats to build, in the target's order of preference."""
    for fmt in asked:
        if fmt not in FORMATS:
            raise unknown("format", fmt, FORMATS)
        if fmt not in target.formats:
            raise UsageError(f"{target.name} takes no {fmt}; it takes {', '.join(target.formats)}.")
    return tuple(fmt for fmt in target.formats if fmt in asked or not asked)


def _buckets(asked: Sequence[int] | None, bound: int | None, defaults: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths to serve, ascending, within the model's positions."""
    if asked is None:
        fitting = [n for n in defaults if bound is None or n <= bound]
        lengths = tuple(fitting or [bound or defaults[0]])
    else:
        lengths = tuple(sorted(set(asked)))
    if not lengths or lengths[0] < MIN_TOKENS or lengths[-1] == MIN_TOKENS:
        raise UsageError(
            f"--seq-len {','.join(map(str, lengths)) or 'is empty'}: a length is {MIN_TOKENS} tokens or more, and the "
            "longest is more.",
            hint="Try --seq-len 16,32,64,128.",
        )
    if bound is not None and lengths[-1] > bound:
        raise UsageError(
            f"--seq-len {lengths[-1]} is beyond the model, whose position table ends at {bound}.",
            hint=f"The largest it takes is {bound}.",
        )
    return lengths


def check_size(source: SourceModel, formats: tuple[str, ...]) -> None:
    """Check that the file formats and this machine's memory can hold a model.

    Raises:
        InputError: they can't.

    """
    weights = source.parameters * 4
    if weights > PROTOBUF_LIMIT and set(formats) & {"onnx", "tflite"}:
        raise InputError(
            f"{source.name} has {source.parameters / 1e6:.0f} M parameters, {weights / 1e9:.1f} GB in fp32; ONNX and TFLite "
            "files end at 2.1 GB on the way to int8.",
            hint="Distil or prune it first, or build --format executorch alone.",
        )
    free = available_memory()
    if free is not None and job_bytes(source) > free:
        raise InputError(
            f"Lowering {source.name} takes about {job_bytes(source) / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free.",
            hint="Close other programs, or build on a larger machine.",
        )


def job_bytes(source: SourceModel) -> int:
    """Return an estimate of the peak memory of one job: what the tools take, and copies of the fp32 weights."""
    return 1_000_000_000 + 6 * 4 * source.parameters
