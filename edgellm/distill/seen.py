"""Seen: what a distillation compares of an encoder: its answer, its hidden states, and its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from edgellm.core.distill import Signals
from edgellm.errors import InputError, first_line
from edgellm.tasks._torch import Wrapped

_NAMES = tuple(
    (name, f"{letter}_lin", f"{name}_proj", f"{letter}_proj", letter)
    for name, letter in (("query", "q"), ("key", "k"), ("value", "v"))
)
"""What transformers calls the linears of an attention: in BERT, DistilBERT, DeBERTa, many others, T5 and MPNet."""


@dataclass(frozen=True)
class Seen:
    """What one pass showed; B texts of T tokens.

    Attributes:
        answer: logits [B, L] or [B, T, L], vectors [B, width] or [B, T, width].
        states: hidden states [B, T, width], of the embeddings and of each layer; empty where they are not compared.
        attention: queries, keys and values [B, T, width] of the last layer, or the maps [B, H, T, T] of each; or empty.

    """

    answer: torch.Tensor
    states: tuple[torch.Tensor, ...] = ()
    attention: tuple[torch.Tensor, ...] = ()


def observe(wrapped: nn.Module, signals: Signals, *, types: bool) -> Callable[..., Seen]:
    """Return what runs an encoder and shows what is compared; it takes input_ids, attention_mask and token_type_ids.

    Args:
        wrapped: as a task wraps it.
        signals: what is compared.
        types: whether it takes token_type_ids.

    Raises:
        InputError: its hidden states or attention can't be had.

    """
    model = cast(Wrapped, wrapped)
    maps = bool(signals.attention) and signals.attend == "maps"
    relations = _last_attention(model.model) if signals.attention and not maps else None
    if maps:
        _make_eager(model.model)
    wanted = {"output_hidden_states": bool(signals.hidden), "output_attentions": maps}
    asked = {name: True for name, on in wanted.items() if on}

    def see(input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None) -> Seen:
        given = {"token_type_ids": token_type_ids} if types and token_type_ids is not None else {}

        def run() -> Any:
            return model.model(input_ids=input_ids, attention_mask=attention_mask, **given, **asked)

        output, attention = relations(run) if relations else (run(), ())
        states = tuple(getattr(output, "hidden_states", None) or ()) if signals.hidden else ()
        attention = tuple(getattr(output, "attentions", None) or ()) if maps else attention
        for name, on, found in (("hidden states", signals.hidden, states), ("attention maps", maps, attention)):
            if on and not found:
                raise InputError(f"{type(model.model).__name__} does not show its {name}.")
        answer = model.answer(output, attention_mask)
        # Losses have 32 bits, whatever the precision of what is compared.
        return Seen(answer.float(), tuple(each.float() for each in states), tuple(each.float() for each in attention))

    return see


def relation_heads(student: Seen, teacher: Seen, wanted: int) -> int:
    """Return in how many parts queries, keys and values of both are compared: `wanted`, or the most below that fits both.

    Args:
        student, teacher: with queries, keys and values.
        wanted: the teacher's attention heads.

    """
    widths = [item.shape[-1] for seen in (student, teacher) for item in seen.attention]
    return max(parts for parts in range(1, wanted + 1) if all(width % parts == 0 for width in widths))


def check_maps(student: Seen, teacher: Seen) -> None:
    """Check that attention maps can be compared.

    Raises:
        InputError: a layer has another number of heads.

    """
    for x in student.attention:
        for y in teacher.attention:
            if x.shape[1] != y.shape[1]:
                raise InputError(
                    f"The student has {x.shape[1]} attention heads, the teacher {y.shape[1]}: their maps can't be compared.",
                    hint="--attend relations compares any.",
                )


def _last_attention(model: nn.Module) -> Callable[[Callable[[], Any]], tuple[Any, tuple[torch.Tensor, ...]]]:
    """Return what makes a pass, and gives its output with the queries, keys and values that the last layer made in it.

    Raises:
        InputError: they do not come of three linears that are known by name.

    """
    named = [(name.rpartition("."), module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found: list[tuple[str, nn.Linear]] = []
    for names in _NAMES:
        places = [(parent, module) for (parent, _, name), module in named if name in names]
        found += places[-1:]
    if len(found) != len(_NAMES) or len({parent for parent, _ in found}) != 1:
        raise InputError(
            f"{type(model).__name__} has no linears of queries, keys and values that are known by name.",
            hint="Compare attention maps instead (--attend maps), or hidden states alone.",
        )

    def watched(run: Callable[[], Any]) -> tuple[Any, tuple[torch.Tensor, ...]]:
        calls: list[list[torch.Tensor]] = [[] for _ in found]

        def keep(outputs: list[torch.Tensor]) -> Callable[[nn.Module, object, torch.Tensor], None]:
            return lambda module, args, output: outputs.append(output)

        # For this pass alone: what other passes make would be kept for as long as the model is.
        handles = [
            linear.register_forward_hook(keep(outputs)) for outputs, (_, linear) in zip(calls, found, strict=True)
        ]
        try:
            output = run()
        finally:
            for handle in handles:
                handle.remove()
        # Values are made once in each layer that has these linears (ALBERT's layers share theirs). DeBERTa's queries and
        # keys are made of positions too, after those of tokens.
        layers = len(calls[-1])
        return output, tuple(outputs[len(outputs) // layers * (layers - 1)] for outputs in calls)

    return watched


def _make_eager(model: nn.Module) -> None:
    """Make a model compute its attention so that it can show it."""
    try:
        cast(Any, model).set_attn_implementation("eager")
    except (AttributeError, ValueError) as error:
        raise InputError(f"{type(model).__name__} does not show its attention: {first_line(error)}.") from None
