"""Attention in a form that every format takes, registered with transformers under a name of its own.

- Three dimensions (`bmm` over heads), which XNNPACK takes whole, instead of four.
- A finite additive mask. Hugging Face's masks padding with the lowest float; that one constant ruins whatever quantizes
  activations to 8 bits, while exp(-30) is 1e-13 already. It is as small as the model's own scores allow: padding is in no
  training, so that nothing keeps its scores from being hundreds above those of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from edgellm.errors import first_line

MASKS = (-30.0, -100.0, -300.0, -1000.0, -3000.0, -10000.0)
"""What may be added to the attention score of padding, also in fp16. `prepare` takes the first that hides it."""

_ATTENTION = "edgellm"
"""Begins the names under which the rewritten attention is registered with transformers, one for each mask."""


def replace_attention(model: nn.Module, masked: float = MASKS[0]) -> str:
    """Replace the attention, or make it eager where the architecture computes something that ours does not.

    Args:
        model: is changed in place, and may be again, for another mask.
        masked: one of MASKS.

    Returns:
        why it was not replaced, or an empty string.

    """
    assert masked in MASKS
    if not hasattr(model, "set_attn_implementation"):
        return f"{type(model).__name__} is no transformers model"
    _register()
    try:
        with _strictly(model):
            model.set_attn_implementation(f"{_ATTENTION}{masked:g}")
            ids = torch.ones((1, 5), dtype=torch.long)
            with torch.no_grad():
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        model.set_attn_implementation("eager")
        return first_line(error)
    return ""


@contextmanager
def _strictly(model: nn.Module) -> Iterator[None]:
    """Make an attention implementation that the architecture would ignore an error."""
    calls = _CALLS[0]
    yield
    if _CALLS[0] == calls:
        raise NotImplementedError(f"{type(model).__name__} does not use the attention interface")


_CALLS = [0]


def _register() -> None:
    """Make the rewritten attention and its mask known to transformers. Idempotent."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, eager_mask

    def mask(
        masked: float, batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any],
        attention_mask: torch.Tensor | None = None, dtype: torch.dtype = torch.float32, **kwargs: Any,
    ) -> torch.Tensor | None:  # fmt: skip
        if mask_function is bidirectional_mask_function and attention_mask is not None:
            return ((1.0 - attention_mask.to(dtype)) * masked).unsqueeze(1)
        full = eager_mask(
            batch_size, q_length, kv_length, mask_function=mask_function, attention_mask=attention_mask, dtype=dtype,
            **{**kwargs, "allow_is_bidirectional_skip": False},
        )  # fmt: skip
        return None if full is None else full.clamp(min=masked)[:, 0]

    for masked in MASKS:
        AttentionInterface.register(f"{_ATTENTION}{masked:g}", partial(attention, masked=masked))
        AttentionMaskInterface.register(f"{_ATTENTION}{masked:g}", partial(mask, masked))


def attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0, masked: float = MASKS[0],
    **kwargs: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Scaled dot-product attention of one text, in three dimensions.

    Args:
        module: the attention layer; unused.
        query: [1, heads, tokens, head width]; key and value alike, with as many or fewer heads.
        attention_mask: added to the scores, [1 or heads, 1 or tokens, tokens]; with a batch of 1 before that, where the
            model made it.
        scaling: of the scores; the inverse root of the head width if None.
        masked: the score that a mask of the model's own making adds at least.
        kwargs: a `position_bias` [1, heads, tokens, tokens] is added to the scores, as T5 has it.

    Returns:
        [1, tokens, heads, head width], and no weights.

    """
    _CALLS[0] += 1
    bias = kwargs.pop("position_bias", None)
    # Positions are in the queries and keys already; who takes them here looks for texts packed into one row.
    extra = [name for name, item in kwargs.items() if isinstance(item, torch.Tensor) and name != "position_ids"]
    if extra or kwargs.get("softcap") is not None:
        raise NotImplementedError(f"attention with {', '.join(extra) or 'softcap'}")
    _, heads, tokens, width = query.shape
    if key.shape[1] != heads:
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        value = value.repeat_interleave(heads // value.shape[1], dim=1)
    q = query.reshape(heads, tokens, width) * (width**-0.5 if scaling is None else scaling)
    k = key.reshape(heads, tokens, width)
    v = value.reshape(heads, tokens, width)
    scores = torch.bmm(q, k.transpose(1, 2))
    if isinstance(bias, torch.Tensor):
        scores = scores + bias[0]
    if attention_mask is not None and attention_mask.dim() == 4:
        attention_mask = attention_mask[0].clamp(min=masked)  # made by the model itself, with the lowest float
    if attention_mask is not None:
        scores = scores + attention_mask
    mixed = torch.bmm(torch.softmax(scores, dim=-1), v)
    return mixed.transpose(0, 1).reshape(1, tokens, heads, width), None
