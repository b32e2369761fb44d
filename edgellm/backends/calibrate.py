"""Calibrate: choose on text the 8-bit ranges of what linears read and write, and state them in the module.

A range becomes a pair of `quantized_decomposed` operators, quantize and dequantize, around the call of the linear. In fp32
they compute the rounding that the artifact will have; torch.export keeps them, and every converter takes them for a
quantized linear. So a range is chosen once and means the same in each format.

What ruins static int8 in transformers is what the second linear of a feed-forward block writes: a channel or two are a
hundred times larger than the others and leave those one or two steps. Such channels are made smaller in the weights and
larger again behind the quantized output. By powers of two, so that fp32 stays exact to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import nn
from torch.nn.utils import parametrize

from edgellm.backends.observe import Samples, called, linear, one_thread, watch
from edgellm.errors import InputError

_ROWS = 1536
"""Tokens that a range is chosen on, evenly spread over all texts; its ends are taken over all tokens."""

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)
"""Candidates for where a range ends, as parts of the largest magnitude."""

_PERCENT = 0.9999
_BINS = 2048
_LEVELS = 255
_SPREAD = 4.0
"""An output channel is evened out where it reaches this many times as far as the middle one."""

GROWN = "grown_by"
"""Name of the buffer with what a linear's output channels are multiplied by."""


Rounded = Callable[[torch.Tensor], torch.Tensor]
"""Takes a tensor and returns it as 8 bits would give it."""


@dataclass(frozen=True)
class Range:
    """An affine 8-bit range: `value = (q - zero) * scale` with q from `lowest` to `lowest + 255`.

    Attributes:
        scale: size of a step.
        zero: q of 0.0, within the range of q.
        lowest: 0 for unsigned, -128 for signed bytes.

    """

    scale: float
    zero: int
    lowest: int

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return (self.lowest - self.zero) * self.scale, (self.lowest + _LEVELS - self.zero) * self.scale

    @staticmethod
    def of(low: float, high: float, *, signed: bool) -> Range:
        """Return the range from `low` to `high`, widened to hold 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / _LEVELS, 1e-12)
        lowest = -128 if signed else 0
        return Range(scale, round(-low / scale) + lowest, lowest)

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [...] quantized and dequantized, by the operators that a traced graph keeps."""
        kind = torch.uint8 if self.lowest == 0 else torch.int8
        how = (self.scale, self.zero, self.lowest, self.lowest + _LEVELS, kind)
        ops = torch.ops.quantized_decomposed
        return ops.dequantize_per_tensor.default(ops.quantize_per_tensor.default(x, *how), *how)


When = Callable[[str, str], bool]
"""Tells whether a linear of that name rounds its "inputs" or its "outputs" just now."""


def always(name: str, kind: str) -> bool:
    """Round everything, as artifacts do."""
    return True


def calibrate(
    module: nn.Module, samples: Samples, *, method: str, signed: bool = True, outputs: bool = True, when: When = always,
    wanted: Callable[[str], bool] = lambda name: True,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Quantize what linears read to 8 bits in place.

    Args:
        module: in evaluation mode.
        samples: calibration inputs.
        method: how ranges are chosen, a key of `core.scheme.RANGES`.
        signed: whether bytes are signed.
        outputs: whether what they write is quantized as well, as kernels need that compute in integers throughout.
        when: asked on each call; channels that stick out are evened out in any case.
        wanted: tells which linears, by name, are to be.

    Returns:
        The names of the linears that were calibrated, and of those that are called and could not be.

    Raises:
        InputError: none could.

    """
    with one_thread():
        names, left = ([name for name in found if wanted(name)] for found in called(module, samples[0]))
        if not names:
            raise InputError(
                "No linear of this model can be calibrated: it calls none in the usual way.",
                hint="Try --scheme int8-dynamic.",
            )
        for name, (read, written) in _observed(module, names, samples, outputs=outputs).items():
            each = linear(module, name)
            # Behind the hook that equalizes: a range is of what the weights meet.
            on_input(each, read.range(method, signed).round, partial(when, name, "inputs"))
            if outputs:
                _even_out(each, written)
                _on_output(each, written.range(method, signed).round, partial(when, name, "outputs"))
    return names, left


def ranges_of(
    module: nn.Module, samples: Samples, *, method: str, wanted: Callable[[str], bool]
) -> dict[str, tuple[Range, Range]]:
    """Return the signed 8-bit ranges of what linears read and write, for backends that quantize the graph themselves.

    Output channels that stick out are evened out in place, so that fp32 stays as it is: what a linear itself writes is what
    has the range.

    Args:
        module: in evaluation mode.
        samples: calibration inputs.
        method: how ranges are chosen, a key of `core.scheme.RANGES`.
        wanted: tells which linears, by name.

    Raises:
        InputError: one that is wanted can't be observed, or reads nothing but 0.

    """
    with one_thread():
        names, left = ([name for name in found if wanted(name)] for found in called(module, samples[0]))
        if left:
            raise InputError(
                f"{left[0]} has no calibrated range: this model does not call it in the usual way, or looks its weight up.",
                hint="Leave it out of the layers with int8-static.",
            )
        found = {}
        for name, (read, written) in _observed(module, names, samples, outputs=True).items():
            if read.ends == (0.0, 0.0):
                raise InputError(
                    f"{name} reads nothing but 0 on the calibration texts.",
                    hint="Leave it out of the layers with int8-static, or give other texts.",
                )
            _grow_behind(linear(module, name), name, written)
            found[name] = (read.range(method, True), written.range(method, True))
    return found


def _observed(
    module: nn.Module, names: Sequence[str], samples: Samples, *, outputs: bool
) -> dict[str, tuple[Seen, Seen]]:
    """Return what linears read, and what they write if `outputs`."""
    rows = max(1, _ROWS // len(samples))
    seen = {name: (Seen(rows), Seen(rows)) for name in names}
    watch(
        module, names, samples,
        reads=lambda name, value: seen[name][0].add(value),
        writes=(lambda name, value: seen[name][1].add(value)) if outputs else None,
    )  # fmt: skip
    return seen


def even_out(module: nn.Module, samples: Samples) -> None:
    """Make output channels of linears that stick out smaller in place, and larger again behind the linear: fp32 stays as it is.

    For backends that quantize the graph themselves; `calibrate` does it where it quantizes outputs.
    """
    with one_thread():
        names, _ = called(module, samples[0])
        written = {name: Seen(0) for name in names}
        watch(module, names, samples, writes=lambda name, value: written[name].add(value))
        for name in names:
            _grow_behind(linear(module, name), name, written[name])


def beyond(module: nn.Module, samples: Samples, others: Samples) -> tuple[str, float]:
    """Return the linear that other inputs drive out of the range of the samples most often, and the share of its rows.

    ("", 0.0) where no linear reads anything.
    A module that is not calibrated yet: what is rounded stays in its range.
    """
    with one_thread():
        names, _ = called(module, samples[0])
        seen = {name: Seen(0) for name in names}
        watch(module, names, samples, reads=lambda name, value: seen[name].add(value))
        rows, out = dict.fromkeys(names, 0), dict.fromkeys(names, 0)

        def note(name: str, value: torch.Tensor) -> None:
            low, high = seen[name].ends
            past = (value.amin(-1) < low) | (value.amax(-1) > high)
            rows[name] += past.numel()
            out[name] += int(past.sum())

        watch(module, names, others, reads=note)
    share = {name: out[name] / rows[name] for name in names if rows[name]}
    worst = max(share, key=lambda name: share[name], default="")
    return worst, share.get(worst, 0.0)


def quantize_weights(module: nn.Module, names: Iterable[str], *, stored: bool) -> None:
    """Make the weights of linears int8 in place, symmetric per output channel.

    Args:
        module: with those linears.
        names: of the linears.
        stored: whether the weight is kept in int8 and dequantized by the graph, or kept in fp32 with both operators in
            the graph, for converters that fold them.

    """
    for name in names:
        each = linear(module, name)
        parametrize.register_parametrization(each, "weight", _Int8(each.weight.data, stored), unsafe=True)


def left_out(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Return a note about linears that could not be calibrated."""
    if not names:
        return ()
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (f"{len(names)} linear{'s' * (len(names) > 1)} ({some}) could not be calibrated; {what}.",)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight [out, in] or a table [rows, width] as int8 gives it, symmetric per row."""
    return _Int8(weight, stored=True)(weight)


class _Int8(nn.Module):
    """A weight [out, in] that is read through int8."""

    def __init__(self, weight: torch.Tensor, stored: bool) -> None:
        super().__init__()
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        self.stored = stored
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int64))
        self.register_buffer("int8", (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        ops, how = torch.ops.quantized_decomposed, (self.scale, self.zero, 0, -127, 127, torch.int8)
        values = self.int8 if self.stored else ops.quantize_per_channel.default(weight, *how)
        rounded: torch.Tensor = ops.dequantize_per_channel.default(values, *how)
        return rounded


class Seen:
    """What a linear read or wrote on all texts: how far each channel reaches, and up to `rows` tokens of each text."""

    def __init__(self, rows: int) -> None:
        self._keep = rows
        self._rows: list[torch.Tensor] = []
        self._low = torch.zeros(())
        self._high = torch.zeros(())

    def add(self, value: torch.Tensor) -> None:
        """Note a tensor [..., channels]."""
        rows = value.reshape(-1, value.shape[-1])
        self._low = torch.minimum(self._low, rows.amin(0))
        self._high = torch.maximum(self._high, rows.amax(0))
        if self._keep:
            self._rows.append(rows[:: math.ceil(len(rows) / self._keep)].clone())  # a view would keep all of it

    @property
    def reach(self) -> torch.Tensor:
        """The largest magnitude of each channel, [channels]."""
        return torch.maximum(-self._low, self._high)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value, or 0 where that is further out."""
        return float(self._low.min()), float(self._high.max())

    def divide(self, by: torch.Tensor) -> None:
        """Scale what was noted down, channel by channel."""
        self._low, self._high = self._low / by, self._high / by
        self._rows = [rows / by for rows in self._rows]

    def range(self, method: str, signed: bool) -> Range:
        """Return the 8-bit range that a method chooses."""
        low, high = self.ends
        values = torch.cat(self._rows).flatten()
        if method == "minmax":
            return Range.of(low, high, signed=signed)
        if method == "percentile":
            ordered = values.sort().values
            end = math.ceil(_PERCENT * (len(ordered) - 1))
            return Range.of(float(ordered[len(ordered) - 1 - end]), float(ordered[end]), signed=signed)
        furthest = max(-low, high)
        ranges = [
            Range.of(max(low, -share * furthest), min(high, share * furthest), signed=signed) for share in _SHARES
        ]
        loss: Callable[[torch.Tensor, Range], float] = {"mse": _squared, "entropy": _divergence}[method]
        return min(ranges, key=lambda candidate: loss(values, candidate))


def _squared(values: torch.Tensor, candidate: Range) -> float:
    return float((candidate.round(values) - values).square().sum())


def _divergence(values: torch.Tensor, candidate: Range) -> float:
    """Return the Kullback-Leibler divergence of a histogram from itself after clipping and rounding.

    After Migacz, 8-bit inference with TensorRT (GTC 2017): what is clipped counts at the ends, and each step shares its
    count evenly among the bins that it covers and that hold anything.
    """
    ends = candidate.ends
    clipped = values.clamp(*ends)
    inside = values[(values >= ends[0]) & (values <= ends[1])]
    before, kept = (torch.histc(part, _BINS, *ends) for part in (clipped, inside))
    step = torch.arange(_BINS) * (_LEVELS + 1) // _BINS
    filled = (kept > 0).float()
    counts, places = (torch.zeros(_LEVELS + 1).index_add(0, step, part) for part in (kept, filled))
    after = (counts / places.clamp(min=1))[step] * filled
    rounded = (after + 1e-9) / (after + 1e-9).sum()  # no bin is impossible
    return float(nn.functional.kl_div(rounded.log(), before / before.sum(), reduction="sum"))


def _even_out(each: nn.Linear, seen: Seen) -> None:
    """Make output channels that reach far smaller in the weights, and larger again behind the output."""
    reach = seen.reach
    usual = _SPREAD * float(reach.median().clamp(min=1e-5))
    by = torch.exp2(torch.ceil(torch.log2((reach / usual).clamp(min=1.0))))
    if bool((by == 1).all()):
        return
    each.weight = nn.Parameter(each.weight.data / by[:, None], requires_grad=False)
    if each.bias is not None:
        each.bias = nn.Parameter(each.bias.data / by, requires_grad=False)
    each.register_buffer(GROWN, by)
    seen.divide(by)


def _grow_behind(each: nn.Linear, name: str, seen: Seen) -> None:
    """Even out what a linear writes, and multiply it behind the linear, where nothing is rounded."""
    _even_out(each, seen)
    _on_output(each, lambda value: value, partial(always, name, "outputs"))


def on_input(each: nn.Linear, rounded: Rounded, when: Callable[[], bool]) -> None:
    """Round what a linear reads, when it is to be."""

    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (rounded(args[0]), *args[1:]) if args and when() else args

    each.register_forward_pre_hook(hook)


def _on_output(each: nn.Linear, rounded: Rounded, when: Callable[[], bool]) -> None:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        value = rounded(output) if args and when() else output
        return value * getattr(module, GROWN) if hasattr(module, GROWN) else value

    each.register_forward_hook(hook)
