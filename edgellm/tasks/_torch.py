"""The torch modules that tasks wrap a model in. Only imported while building."""

from __future__ import annotations

import torch
from torch import nn

from edgellm.errors import InputError


def _field(output: object, name: str) -> torch.Tensor:
    """Return a model's output tensor: a field of a ModelOutput, the first of a tuple, or the tensor itself."""
    if isinstance(output, torch.Tensor):
        return output
    tensor = getattr(output, name) if hasattr(output, name) else output[0]  # type: ignore[index]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _call(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> object:
    """Call the model with the inputs that it takes."""
    if types is None:
        return model(input_ids=ids, attention_mask=mask)
    return model(input_ids=ids, attention_mask=mask, token_type_ids=types)


class Pooled(nn.Module):
    """An encoder whose output is one vector [1, width] per text, or [1, tokens, width] without pooling."""

    def __init__(self, model: nn.Module, *, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        output = _call(self.model, input_ids, attention_mask, token_type_ids)
        hidden = _field(output, "last_hidden_state")
        if self.pooling == "none":
            return hidden
        if self.pooling == "cls":
            vector = hidden[:, 0]
        else:
            # The mean over real tokens as one batched matmul, which every delegate takes; the mask never sums to 0.
            mask = attention_mask.to(hidden.dtype)
            vector = torch.bmm(mask.unsqueeze(1), hidden).squeeze(1) / mask.sum(1, keepdim=True)
        if self.normalize:
            # torch.nn.functional.normalize, written in operators that every delegate takes (same epsilon, squared).
            squares = (vector * vector).sum(1, keepdim=True)
            vector = vector * torch.rsqrt(squares.clamp(min=1e-24))
        return vector


class Logits(nn.Module):
    """A classifier whose output is its logits [1, labels]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return _field(_call(self.model, input_ids, attention_mask, token_type_ids), "logits")


class Spans(nn.Module):
    """A model that points at where an answer starts and ends; its output is both logits [1, tokens, 2]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        output = _call(self.model, input_ids, attention_mask, token_type_ids)
        if isinstance(output, tuple):
            return torch.stack((output[0], output[1]), dim=-1)
        if not hasattr(output, "start_logits"):
            raise InputError(
                f"{type(self.model).__name__} gives no logits of start and end: it searches for answers in a way of its "
                "own, which edgellm does not build."
            )
        return torch.stack((_field(output, "start_logits"), _field(output, "end_logits")), dim=-1)
