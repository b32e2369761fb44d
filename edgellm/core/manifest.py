"""The manifest of a bundle: what `manifest.json` holds (its JSON Schema is beside this file)."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.core.agreement import Agreement, AgreementMatrix
from edgellm.core.delegation import Delegation
from edgellm.core.evaluation import Evaluation
from edgellm.core.npu import NpuReport
from edgellm.core.scheme import FORMATS
from edgellm.core.signature import Signature

SCHEMA_VERSION = 1
"""Raised when a reader of the previous version would misread a manifest."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: path relative to it with forward slashes, size in bytes, hex digest."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelInfo:
    """The source model.

    Attributes:
        name: of the folder or function it came from.
        source_sha256: over its configuration, weights and tokenizer.
        parameters: number of weights in the source.
        licence: as the source's model card has it, mostly an SPDX identifier; None where it does not say.

    """

    name: str
    source_sha256: str
    parameters: int
    licence: str | None


@dataclass(frozen=True)
class BytesOf:
    """Where the bytes of an artifact are: one kind of content."""

    kind: str
    bytes: int


@dataclass(frozen=True)
class Artifact:
    """One lowered model.

    Attributes:
        id: unique in the bundle, for example "onnx-int8-dynamic".
        format: one of `core.scheme.FORMATS`.
        file: its main file, relative to the bundle.
        sha256: of that file.
        bytes: of all the files that a device needs.
        scheme: what is quantized how.
        delegate: what runs it on the target.
        signature: inputs, outputs, lengths.
        session_options: engine options that the runtime sets when it opens the artifact.
        delegation: what the delegate took of the graph, and why it left the rest; None where it decides when it loads.
        contents: where the bytes are, largest first.
        agreement: with the fp32 source, on the build host; None where nothing on it runs the artifact, which was then
            read back and checked, and not run.
        more_files: the others; of "qnn", `file` and these are one for each bucket.
        reference: name of a file with the same integers that any machine runs, where `file` runs on the NPU alone.
        npu: what the NPU vendor's compiler says; estimates, not measurements.
        evaluation: the task's metrics on labelled texts, where `--eval` gave some; without examples of flips, which are
            the user's texts.

    """

    id: str
    format: str
    file: str
    sha256: str
    bytes: int
    scheme: str
    delegate: str
    signature: Signature
    session_options: dict[str, str]
    delegation: Delegation | None
    contents: tuple[BytesOf, ...]
    agreement: Agreement | None
    evaluation: Evaluation | None = None
    more_files: tuple[str, ...] = ()
    reference: str = ""
    npu: NpuReport | None = None

    @property
    def deployed(self) -> tuple[str, ...]:
        """The files that a device needs."""
        return (self.file, *self.more_files)

    @property
    def files(self) -> tuple[str, ...]:
        """All of its files."""
        return (*self.deployed, *((self.reference,) if self.reference else ()))


@dataclass(frozen=True)
class TaskOptions:
    """What a task needs to know of one model.

    Attributes:
        pooling: feature-extraction: "mean", "cls" or "none".
        normalize: feature-extraction: whether vectors have unit length.
        labels: label of each output, in order.
        scores: text-classification: "softmax", "sigmoid" or "none" turns logits into scores.
        mask: fill-mask: the token that stands for a missing one.
        mask_id: its id.
        pad_id: fill-mask: the id that is left out of sequences; None where there is none. ctc-seq2seq: the blank.
        slots: ctc-seq2seq: output places for each token.
        alternatives: ctc-seq2seq: likeliest tokens of a slot that the graph names.
        clean_spaces: fill-mask: whether text loses the spaces before punctuation.
        unknown_id: token-classification: the id of what the vocabulary lacks; None where there is none.
        overlap: how many tokens neighbouring windows of a long text share; None where long texts are cut at the end.

    """

    pooling: str = "none"
    normalize: bool = False
    labels: tuple[str, ...] = ()
    scores: str = "none"
    mask: str = ""
    mask_id: int = 0
    pad_id: int | None = None
    slots: int = 1
    alternatives: int = 1
    clean_spaces: bool = False
    unknown_id: int | None = None
    overlap: int | None = None


@dataclass(frozen=True)
class Calibration:
    """The texts that quantization was tuned on; no golden or evaluation text is among them.

    Attributes:
        texts: how many.
        sha256: of the texts, one per line, UTF-8.
        own: whether they are the user's, or edgellm's default ones.
        ranges: how a static scheme chose the ranges of activations; None where they come with each input.

    """

    texts: int
    sha256: str
    own: bool
    ranges: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime must know of a bundle.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the writer.
        task: Hugging Face pipeline id.
        task_options: the task's facts about this model.
        target: name of the target it was built for.
        model: the source.
        tools: package to version, of everything that made it.
        max_tokens: longest text in tokens, special tokens included, the same in every format.
        min_agreement: the gate every artifact passed.
        min_exact: the gate's share of answers that are the source's to the letter; None where answers are no texts.
        files: every file but this one and `reports/`.
        artifacts: in the target's order of preference.
        matrix: mean pairwise agreement of the fp32 source and the artifacts.
        calibration: what quantization was tuned on; None if on nothing.
        notes: what could not be done for this model, in sentences.

    """

    schema_version: int
    task: str
    task_options: TaskOptions
    target: str
    model: ModelInfo
    tools: dict[str, str]
    max_tokens: int
    min_agreement: float
    files: tuple[FileEntry, ...]
    artifacts: tuple[Artifact, ...]
    matrix: AgreementMatrix
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()
    min_exact: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens < 2**31:
            raise ValueError(f"max_tokens: {self.max_tokens} is no length")
        for artifact in self.artifacts:
            buckets, labels = artifact.signature.buckets, self.task_options.labels
            if artifact.format not in FORMATS:
                raise ValueError(f"artifacts: no format is called {artifact.format!r}")
            if not 1 <= artifact.signature.min_tokens <= self.max_tokens:
                raise ValueError(f"artifacts: min_tokens of {artifact.id} is no length up to max_tokens")
            if labels and artifact.signature.outputs[0].shape[-1:] != (len(labels),):
                raise ValueError(f"artifacts: {artifact.id} has other outputs than there are labels")
            if artifact.format == "qnn" and len(artifact.deployed) != len(buckets):
                raise ValueError(f"artifacts: {artifact.id} has other files than it has buckets")
            if buckets and buckets[-1] < self.max_tokens:
                raise ValueError(f"artifacts: the buckets of {artifact.id} end before max_tokens")
