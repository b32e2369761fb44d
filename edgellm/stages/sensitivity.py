"""Sensitivity: what each layer and each kind of quantization costs, by rounding in the fp32 module.

Simulated, not run: the rounding is the scheme's and the arithmetic torch's, so that every part can be quantized alone, or
left out, in one process and with ranges that were calibrated once. What an artifact does, its gate says.

Where a format quantizes activations as they come, ONNX does so with one scale per tensor, the others with one per token;
where they have static ranges, ONNX leaves what linears write in fp32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from edgellm.backends._tflite_quantize import grouped
from edgellm.backends.calibrate import calibrate, on_input, rounded_weight
from edgellm.backends.fitting import round_weights
from edgellm.backends.observe import Samples, called, linear, looked_up_by, one_thread
from edgellm.backends.rounding import MIN_ROWS, layers_of
from edgellm.core.precision import Precisions
from edgellm.core.scheme import SCHEMES
from edgellm.core.sensitivity import Loss, Part, Sensitivity
from edgellm.core.signature import Outputs, Signature
from edgellm.runtime.bundle import TOKENIZER
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.faithful import to_tensors
from edgellm.stages.lower import encode_texts, equalized
from edgellm.stages.prepare import prepare
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.source import SourceModel
from edgellm.tasks import Encoding, load_task

EVERY = 3
"""Every third text is measured on; the others choose."""

_MEASURED = 64
"""Texts at most that are measured on: each runs through the model twice for each part."""

Switch = tuple[str, str]
"""A layer and a kind of quantization of it."""


def measure(
    source: SourceModel, scheme: str, fmt: str, texts: Sequence[str], *, ranges: str, max_tokens: int
) -> Sensitivity:
    """Return what the scheme costs in a format, part by part.

    Args:
        source: the model.
        scheme: one that quantizes.
        fmt: whose way of quantizing is simulated.
        texts: of the model's domain, two thirds to choose scales and ranges on, one to measure on.
        ranges: a key of `core.scheme.RANGES`.
        max_tokens: longer texts are cut.

    """
    checked = texts[::EVERY][:_MEASURED]
    chosen = [text for number, text in enumerate(texts) if number % EVERY]
    active: set[Switch] = set()
    with one_thread():
        answers = _Answers(source, checked, max_tokens)
        answers.keep(prepare(source).module)
        module = _prepared(source, scheme, fmt, chosen, max_tokens)
        samples = [to_tensors(item) for item in encode_texts(source, chosen, max_tokens)]
        switches = list(_install(module, samples, scheme, fmt, ranges, active))
        weights = _weights(module, switches, _rounding(module, samples, scheme, fmt))
        _, left = called(module, samples[0])

        def loss(part: Iterable[Switch]) -> Loss:
            active.clear()
            active.update(part)
            for each in weights:
                each.owner.weight.data = each.rounded if active & each.switches else each.plain
            return answers.loss(module)

        layers = list(dict.fromkeys(layer for layer, _ in switches))
        kinds = list(dict.fromkeys(kind for _, kind in switches))
        whole = loss(switches)
        parts = {
            name: Part(name, loss(own := [s for s in switches if name in s]), loss(set(switches) - set(own)))
            for name in (*layers, *kinds)
        }
    return Sensitivity(
        source.name, source.task, answers.task.METRIC, scheme, fmt, ranges if SCHEMES[scheme].static else None,
        len(chosen), len(checked), whole, _sorted(parts[name] for name in layers), _sorted(parts[name] for name in kinds),
        tuple(left),
    )  # fmt: skip


def _sorted(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return the noisiest first."""
    return tuple(sorted(parts, key=lambda part: math.inf if part.alone.snr_db is None else part.alone.snr_db))


def _prepared(source: SourceModel, scheme: str, fmt: str, chosen: Sequence[str], max_tokens: int) -> nn.Module:
    """Return the module as this format's backend gets it."""
    rewritten = prepare(source)
    if fmt in SCHEMES[scheme].equalized:
        feeds = encode_texts(source, chosen, max_tokens)
        rewritten, _ = equalized(source, rewritten, feeds, fmt, max_tokens, Precisions(scheme), fmt)
    return rewritten.module


def _install(
    module: nn.Module, samples: Samples, scheme: str, fmt: str, ranges: str, active: set[Switch]
) -> Iterable[Switch]:
    """Quantize every part in place, but only while it is active; yield the parts."""

    def when(layer: str, kind: str) -> bool:
        return (layer, kind) in active

    names, _ = called(module, samples[0])
    looked_up = looked_up_by(module, samples[0])
    if SCHEMES[scheme].static:
        calibrate(module, samples, method=ranges, signed=fmt != "onnx", outputs=fmt != "onnx", when=when)
        kinds = ["weights", "inputs"] if fmt == "onnx" else ["weights", "inputs", "outputs"]
    elif scheme in ("int8-dynamic", "int4-dynamic"):
        for name in names:
            on_input(linear(module, name), _per_tensor if fmt == "onnx" else _per_token, partial(when, name, "inputs"))
        kinds = ["weights", "inputs"]
    else:
        kinds = ["weights"]
    yield from ((name, kind) for name in names for kind in kinds)
    for name, table in list(module.named_modules()):
        if table in looked_up and isinstance(table, nn.Embedding) and table.num_embeddings >= MIN_ROWS:
            yield name, "tables"


@dataclass
class _Weight:
    """A weight with and without rounding, and the switches that it has: one for each module that shares it."""

    owner: nn.Linear | nn.Embedding
    plain: torch.Tensor
    rounded: torch.Tensor
    switches: set[Switch]


Rounding = Callable[[str, torch.Tensor], torch.Tensor]
"""Takes the name and the weight of a layer, and returns the weight as a scheme rounds it."""


def _rounding(module: nn.Module, samples: Samples, scheme: str, fmt: str) -> Rounding:
    bits = SCHEMES[scheme].bits
    if bits == 16:
        return lambda name, weight: weight.half().float()
    if bits == 8:
        return lambda name, weight: rounded_weight(weight)
    coarse = copy.deepcopy(module)
    round_weights(coarse, Precisions(scheme), samples, grouped if fmt == "tflite" else None)
    fitted = {name: child.weight.data for name, child in layers_of(coarse)}
    return lambda name, weight: fitted[name]


def _weights(module: nn.Module, switches: Iterable[Switch], rounding: Rounding) -> list[_Weight]:
    found: dict[int, _Weight] = {}
    for switch in switches:
        owner = module.get_submodule(switch[0])
        if switch[1] in ("weights", "tables") and isinstance(owner, (nn.Linear, nn.Embedding)):
            plain = owner.weight.data
            each = found.setdefault(id(owner.weight), _Weight(owner, plain, rounding(switch[0], plain), set()))
            each.switches.add(switch)
    return list(found.values())


def _per_token(x: torch.Tensor) -> torch.Tensor:
    """Round to 8 bits with a range of its own for each row, which holds 0."""
    return _affine(x, x.amin(-1, keepdim=True), x.amax(-1, keepdim=True))


def _per_tensor(x: torch.Tensor) -> torch.Tensor:
    """Round to 8 bits as ONNX's DynamicQuantizeLinear does."""
    return _affine(x, x.min(), x.max())


def _affine(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round()
    return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale


@dataclass(frozen=True)
class _Said:
    """What a module says: its outputs, and the answer that the task makes of them."""

    outputs: list[Outputs]
    value: object


class _Answers:
    """The answers to some texts, kept from fp32, and how far others are from them."""

    def __init__(self, source: SourceModel, texts: Sequence[str], max_tokens: int) -> None:
        self.task = load_task(source.task)
        self._source = source
        with TemporaryDirectory() as folder:
            write_tokenizer(source, Path(folder) / TOKENIZER)
            self._tokenizer = Tokenizer(Path(folder) / TOKENIZER, max_tokens)
        self._inputs = self.task.golden(texts, source.options)
        self._encodings: list[list[Encoding]] = [
            self.task.encode(raw, self._tokenizer, source.options) for raw in self._inputs
        ]
        self._kept: list[_Said] = []

    def keep(self, module: nn.Module) -> None:
        """Note the module's answers as what others are compared with."""
        self._kept = self._ask(module)

    def loss(self, module: nn.Module) -> Loss:
        """Return how far the module's answers are from those that were kept."""
        signal = noise = agreement = 0.0
        for kept, said in zip(self._kept, self._ask(module), strict=True):
            for before, after in zip(kept.outputs, said.outputs, strict=True):
                for name in before:
                    # Not what a task masks with the lowest float.
                    finite = np.abs(before[name]) < 1e30
                    signal += float(np.square(before[name][finite], dtype=np.float64).sum())
                    noise += float(np.square(after[name][finite] - before[name][finite], dtype=np.float64).sum())
            agreement += self.task.agree(kept.value, said.value, self._source.options)
        ratio = None if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
        return Loss(ratio, agreement / len(self._kept))

    def _ask(self, module: nn.Module) -> list[_Said]:
        signature = Signature(self._source.inputs, (self._source.output,))
        said = []
        for raw, encodings in zip(self._inputs, self._encodings, strict=True):
            with torch.no_grad():
                results = [module(**to_tensors(to_feeds(encoding, signature))) for encoding in encodings]
            outputs: list[Outputs] = [{self._source.output.name: result.float().numpy()} for result in results]
            value = self.task.decode(raw, encodings, outputs, self._source.options, self._tokenizer)
            said.append(_Said(outputs, value))
        return said
