"""A session: one artifact of a bundle, opened on this device, that answers raw text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from edgellm.core.manifest import Artifact
from edgellm.core.signature import TOKENS, Feeds, Outputs, Signature
from edgellm.errors import InputError, MissingDependencyError, UsageError
from edgellm.runtime import engines
from edgellm.runtime.bundle import TOKENIZER, Bundle
from edgellm.runtime.machine import peak_rss_bytes
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import Encoding, load_task

MAX_THREADS = 128
"""More would only wait for each other, and may take the machine down while engines start them."""


@dataclass(frozen=True)
class Timing:
    """Where the time of one answer went, in milliseconds: text to ids, and the forward passes."""

    tokenize_ms: float
    inference_ms: float


@dataclass(frozen=True)
class Result:
    """The answer to one text.

    Attributes:
        value: the task's answer, with the fields of the transformers pipeline of that name: a list of label and score
            dicts for text-classification, for example; for feature-extraction a float32 vector [width].
        format: of the artifact that answered.
        timing: of this answer.
        truncated: whether text was cut to the bundle's max_tokens.

    """

    value: object
    format: str
    timing: Timing
    truncated: bool


@dataclass(frozen=True)
class Pass:
    """One input on its way through: its encodings, feeds and outputs, one each per forward pass."""

    encodings: tuple[Encoding, ...]
    feeds: tuple[Feeds, ...]
    outputs: tuple[Outputs, ...]
    timing: Timing


class Session:
    """One opened artifact. Not thread-safe: open one session per thread.

    Attributes:
        bundle: where it came from.
        artifact: which of the bundle's artifacts answers.
        threads: how many threads the engine computes with.
        load_ms: time to open the artifact; importing the engine and checking the hash are not in it.

    """

    def __init__(self, bundle: Bundle, artifact: Artifact, threads: int) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"{threads} threads can't compute; from 1 to {MAX_THREADS} can.")
        self.bundle = bundle
        self.artifact = artifact
        self.threads = threads
        if not engines.can_run(artifact):
            raise UsageError(
                f"{artifact.id} is for {artifact.delegate}, which edgellm's runtime does not have.",
                hint="Run it in an app, or choose another --format.",
            )
        manifest = bundle.manifest
        self._task = load_task(manifest.task)
        self._options = manifest.task_options
        self._tokenizer = Tokenizer(bundle.use(TOKENIZER), manifest.max_tokens)
        engines.require(artifact.format)
        paths = [bundle.use(name) for name in ((artifact.reference,) if artifact.reference else artifact.deployed)]
        engine = engines.load_engine(artifact.format)
        engine.load()
        start = time.perf_counter()
        self._engine = engine.open(paths, artifact, threads)
        took = (time.perf_counter() - start) * 1e3
        self.load_ms = self._engine.load_ms if isinstance(self._engine, engines.RemoteEngine) else took

    @classmethod
    def open(cls, bundle: str | Path | Bundle, *, format: str | None = None, threads: int = 1) -> Session:
        """Open an artifact of a bundle.

        Args:
            bundle: the bundle's folder.
            format: a format or an artifact id; left out, the first of the target's order whose engine is
                installed here, preferring what is not an emulation. `session.artifact` says which it is.
            threads: compute threads.

        Raises:
            BundleError: the bundle is damaged, or its engine can't load the artifact.
            UsageError: the bundle has no such format.
            MissingDependencyError: no engine for it is installed.

        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        artifact = opened.artifact(format) if format else _first_installed(opened)
        return cls(opened, artifact, threads)

    @property
    def format(self) -> str:
        """The format of the artifact that answers."""
        return self.artifact.format

    @overload
    def __call__(self, text: str | Mapping[str, object]) -> Result: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, text: Sequence[str | Mapping[str, object]]) -> list[Result]: ...
    def __call__(
        self, text: str | Mapping[str, object] | Sequence[str | Mapping[str, object]]
    ) -> Result | list[Result]:
        """Answer a raw input, or each of a list of them: a text, or an object with the arguments of the task.

        Raises:
            InputError: something is no input of the task, or not valid Unicode.

        """
        if isinstance(text, (list, tuple)):
            return [self._answer(item) for item in text]
        return self._answer(text)

    def encode(self, text: object, *, max_tokens: int | None = None) -> tuple[tuple[Encoding, ...], tuple[Feeds, ...]]:
        """Return encodings and feeds of one raw input, one each per forward pass."""
        encodings = tuple(self._task.encode(text, self._tokenizer.limited(max_tokens), self._options))
        return encodings, tuple(to_feeds(encoding, self.artifact.signature) for encoding in encodings)

    def run(self, text: object, *, max_tokens: int | None = None) -> Pass:
        """Take one raw input through tokenizer and engine, and return everything on the way."""
        start = time.perf_counter()
        encodings, feeds = self.encode(text, max_tokens=max_tokens)
        tokenized = time.perf_counter()
        outputs = tuple(self.infer(item) for item in feeds)
        done = time.perf_counter()
        timing = Timing((tokenized - start) * 1e3, (done - tokenized) * 1e3)
        return Pass(encodings, feeds, outputs, timing)

    def value(self, text: object, done: Pass) -> object:
        """Return the task's answer from the outputs of all passes of a raw input."""
        return self._task.decode(text, done.encodings, done.outputs, self._options, self._tokenizer)

    def infer(self, feeds: Feeds) -> Outputs:
        """Run one forward pass over unpadded feeds [1, tokens], padded here to a length the artifact takes.

        Raises:
            InputError: a name, shape, dtype, length or id does not fit the signature.

        """
        signature = self.artifact.signature
        tokens = check_feeds(feeds, signature, self.bundle.manifest.max_tokens)
        outputs = self._engine.run(pad(feeds, signature, signature.tokens_for(tokens)))
        return {
            spec.name: outputs[spec.name][:, :tokens] if TOKENS in spec.shape else outputs[spec.name]
            for spec in signature.outputs
        }

    def time(self, feeds: Feeds, *, warmup: int = 0, runs: int) -> list[float]:
        """Return the milliseconds of each of `runs` forward passes over unpadded feeds; raises like `infer`.

        Where another process computes, its own clock tells, so that no pipe is timed.
        """
        if isinstance(self._engine, engines.RemoteEngine):
            check_feeds(feeds, self.artifact.signature, self.bundle.manifest.max_tokens)
            return self._engine.time(feeds, warmup=warmup, runs=runs)
        for _ in range(warmup):
            self.infer(feeds)
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self.infer(feeds)
            times.append((time.perf_counter() - start) * 1e3)
        return times

    @property
    def remote(self) -> bool:
        """Whether another process computes."""
        return isinstance(self._engine, engines.RemoteEngine)

    def usage(self) -> engines.Usage:
        """Return what computing has used so far: this process, or the one that it is left to."""
        if isinstance(self._engine, engines.RemoteEngine):
            return self._engine.usage()
        return engines.Usage(time.process_time() * 1e3, peak_rss_bytes() / 1e6)

    def _answer(self, text: object) -> Result:
        done = self.run(text)
        return Result(
            value=self.value(text, done),
            format=self.format,
            timing=done.timing,
            truncated=any(encoding.truncated for encoding in done.encodings),
        )


def to_feeds(encoding: Encoding, signature: Signature) -> Feeds:
    """Return the int64 inputs [1, tokens] that a signature asks for, without padding."""
    values = {
        "input_ids": encoding.ids,
        "attention_mask": (1,) * len(encoding.ids),
        "token_type_ids": encoding.type_ids,
    }
    return {spec.name: np.array([values[spec.name]], dtype=np.int64) for spec in signature.inputs}


def check_feeds(feeds: Feeds, signature: Signature, max_tokens: int) -> int:
    """Return the length of the feeds after checking them; engines fail opaquely or read out of bounds on bad ones.

    Raises:
        InputError: a name, shape, dtype, length or id does not fit the signature.

    """
    names = [spec.name for spec in signature.inputs]
    if sorted(feeds) != sorted(names):
        raise InputError(f"The artifact takes {', '.join(names)}, not {', '.join(sorted(feeds)) or 'nothing'}.")
    tokens = None
    for spec in signature.inputs:
        array = feeds[spec.name]
        if array.dtype != np.int64:
            raise InputError(f"{spec.name} has dtype {array.dtype}; int64 is needed.")
        if array.ndim != 2 or array.shape[0] != 1 or array.shape[1] == 0:
            raise InputError(f"{spec.name} has shape {list(array.shape)}; [1, tokens] is needed.")
        if tokens not in (None, array.shape[1]):
            raise InputError(f"{spec.name} has {array.shape[1]} tokens, {names[0]} has {tokens}.")
        tokens = int(array.shape[1])
        # As unsigned, what is negative is the largest: one look instead of two.
        if array.view(np.uint64).max() >= spec.bound:
            low, high = int(array.min()), int(array.max())
            raise InputError(f"{spec.name} holds {low if low < 0 else high}; 0 to {spec.bound - 1} is valid.")
    assert tokens is not None
    if tokens > max_tokens:
        raise InputError(f"{tokens} tokens exceed the bundle's {max_tokens}.")
    return tokens


def pad(feeds: Feeds, signature: Signature, tokens: int) -> Feeds:
    """Return feeds padded at the end to `tokens`, with each input's own padding value."""
    padded = {}
    for spec in signature.inputs:
        array = feeds[spec.name]
        if array.shape[1] < tokens:
            # np.pad is slow enough to show in the latency of a short text.
            longer = np.full((1, tokens), spec.pad, dtype=array.dtype)
            longer[:, : array.shape[1]] = array
            array = longer
        padded[spec.name] = array
    return padded


def _first_installed(bundle: Bundle) -> Artifact:
    """Return the first artifact whose engine is installed; one that is only emulated here comes after the others."""
    artifacts = bundle.manifest.artifacts
    ready = [a for a in artifacts if engines.can_run(a) and engines.installed_package(a.format)]
    if ready:
        return next((artifact for artifact in ready if not engines.emulates(artifact)), ready[0])
    formats = [artifact.format for artifact in artifacts if engines.can_run(artifact)]
    if not formats:
        delegates = " and ".join(sorted({artifact.delegate for artifact in artifacts}))
        raise UsageError(
            f"edgellm's runtime runs nothing of {bundle.path}: {delegates} is for an app's own.",
            hint="Build for another target to run it here.",
        )
    raise MissingDependencyError(
        f"None of the bundle's formats ({', '.join(formats)}) has its engine installed.",
        hint=f"Install one with: pip install 'edgellm[{formats[0]}]'",
    )
