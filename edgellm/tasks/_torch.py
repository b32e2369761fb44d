"""The torch modules that tasks wrap a model in. Only imported while building."""

from __future__ import annotations

import functools

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


class Wrapped(nn.Module):
    """A model with one output tensor, which `answer` makes of what the model gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # Not every model takes segments.
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.answer(self.model(input_ids=input_ids, attention_mask=attention_mask, **types), attention_mask)

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        """Return the output tensor from the model's output and the attention mask [1, tokens]."""
        raise NotImplementedError


class Pooled(Wrapped):
    """An encoder whose output is one vector [1, width] per text, or [1, tokens, width] without pooling."""

    def __init__(self, model: nn.Module, *, pooling: str, normalize: bool) -> None:
        super().__init__(model)
        self.pooling = pooling
        self.normalize = normalize

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        hidden = _field(output, "last_hidden_state")
        if self.pooling == "none":
            return hidden
        if self.pooling == "cls":
            vector = hidden[:, 0]
        else:
            # The mean over real tokens as one batched matmul, which every delegate takes; the mask never sums to 0.
            mask = mask.to(hidden.dtype)
            vector = torch.bmm(mask.unsqueeze(1), hidden).squeeze(1) / mask.sum(1, keepdim=True)
        if self.normalize:
            # torch.nn.functional.normalize, written in operators that every delegate takes (same epsilon, squared).
            squares = (vector * vector).sum(1, keepdim=True)
            vector = vector * torch.rsqrt(squares.clamp(min=1e-24))
        return vector


class Logits(Wrapped):
    """A classifier whose output is its logits [1, labels]."""

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        return _field(output, "logits")


class Spans(Wrapped):
    """A model that points at where an answer starts and ends; its output is both logits [1, tokens, 2]."""

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        if isinstance(output, tuple):
            return torch.stack((output[0], output[1]), dim=-1)
        if not hasattr(output, "start_logits"):
            raise InputError(
                f"{type(self.model).__name__} gives no logits of start and end: it searches for answers in a way of its "
                "own, which edgellm does not build."
            )
        return torch.stack((_field(output, "start_logits"), _field(output, "end_logits")), dim=-1)


class Filled(Wrapped):
    """A masked language model whose output is the likeliest tokens [1, slots, top, 2] of the first masks of a text.

    The last axis is (probability, id). Rows of slots that no mask fills hold whatever the head makes of zeros.
    """

    def __init__(self, model: nn.Module, *, mask_id: int, slots: int, top: int) -> None:
        """Make the head see the hidden states of masks only.

        Raises:
            InputError: the model has no encoder of its own below its head.

        """
        super().__init__(model)
        base = getattr(model, "base_model", model)
        if base is model:
            raise InputError(
                f"{type(model).__name__} does not say what of it is the encoder, so its head can't be told apart.",
                hint="fill-mask builds transformers models, whose base_model it is.",
            )
        base.register_forward_hook(functools.partial(_at_masks, mask_id=mask_id, slots=slots), with_kwargs=True)
        self.slots = slots
        self.top = top

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        logits = _field(output, "logits")
        if logits.shape[1] != self.slots:
            raise InputError(f"The head of {type(self.model).__name__} does not read its encoder's last hidden state.")
        scores, ids = torch.topk(torch.softmax(logits, dim=-1), self.top, dim=-1)
        return torch.stack((scores, ids.to(scores.dtype)), dim=-1)

    def apart(self, expected: torch.Tensor, got: torch.Tensor) -> float:
        """Return how far two outputs are apart, relative to the largest probability of the first.

        Tokens that are as good as equally likely may stand in either order, which as ids would be a large difference,
        and the last ones may give way to others. So each token counts by how much likelier it is than the last one.
        """
        return _apart(expected, got)


def _at_masks(
    base: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object, *, mask_id: int, slots: int
) -> object:
    """Return an encoder's output with the hidden states of the first masks in place of all tokens': [1, slots, width].

    The selection is a matmul, which every delegate takes.
    """
    ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
    assert isinstance(ids, torch.Tensor)
    hidden = _field(output, "last_hidden_state")
    is_mask = (ids == mask_id).to(hidden.dtype).unsqueeze(1)
    rank = torch.cumsum(is_mask, dim=2)
    wanted = torch.arange(1, slots + 1, dtype=hidden.dtype).reshape(1, slots, 1)
    chosen = torch.bmm((rank == wanted).to(hidden.dtype) * is_mask, hidden)
    if isinstance(output, tuple):
        return (chosen, *output[1:])
    output.last_hidden_state = chosen  # type: ignore[attr-defined]
    return output


class Slots(Wrapped):
    """A model with output places for each token; its output is the likeliest tokens of each [1, tokens, slots * top * 2].

    The last axis holds (probability, id) of the first slot's likeliest token, of its next one, and so on.
    """

    def __init__(self, model: nn.Module, *, slots: int, top: int) -> None:
        super().__init__(model)
        self.slots = slots
        self.top = top

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(_field(output, "logits"), dim=-1)
        if self.top == 1:
            scores, ids = probabilities.max(dim=-1, keepdim=True)
        else:
            scores, ids = torch.topk(probabilities, self.top, dim=-1)
        pairs = torch.stack((scores, ids.to(scores.dtype)), dim=-1)
        return pairs.reshape(1, -1, self.slots * self.top * 2)

    def apart(self, expected: torch.Tensor, got: torch.Tensor) -> float:
        """Return how far two outputs are apart, relative to the largest probability of the first; see `Filled.apart`.

        A slot's one token may change where another is as likely, which is never so above one half.
        """
        tokens = min(expected.shape[1], got.shape[1])
        shape = (1, tokens * self.slots, self.top, 2)
        expected, got = expected[:, :tokens].reshape(shape), got[:, :tokens].reshape(shape)
        if self.top > 1:
            return _apart(expected, got)
        sure = torch.maximum(expected[..., 0], got[..., 0]) - 0.5
        changed = (expected[..., 1] != got[..., 1]) * sure.clamp(min=0.0)
        difference = torch.maximum((expected[..., 0] - got[..., 0]).abs(), changed)
        return float(difference.max()) / max(float(expected[..., 0].max()), 1e-6)


class Places(Slots):
    """A model that fills places; its output is the token of each [1, tokens, slots * 2], as `Slots` has it."""

    def answer(self, output: object, mask: torch.Tensor) -> torch.Tensor:
        scores = _field(output, "scores")
        pairs = torch.stack((scores, _field(output, "ids").to(scores.dtype)), dim=-1)
        return pairs.reshape(1, -1, self.slots * 2)


def _apart(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return the largest difference of likelihoods [1, slots, top, 2], relative to the largest probability of the first."""
    tables = []
    for output in (expected, got):
        scores, ids = output[0, ..., 0], output[0, ..., 1].long()
        last = scores[:, -1:]
        table = scores.new_zeros(scores.shape[0], 1 + int(max(expected[..., 1].max(), got[..., 1].max())))
        tables.append(torch.cat((table.scatter(1, ids, scores - last), last), dim=1))
    difference = float((tables[1] - tables[0]).abs().max())
    return difference / max(float(expected[..., 0].max()), 1e-6)
