"""Learner: a student beside its teacher, whose forward is the loss of distillation."""

from __future__ import annotations

import torch
from torch import nn

from edgellm.core.distill import Signals
from edgellm.distill import losses
from edgellm.distill.labelled import KINDS_OF_LOGITS
from edgellm.distill.seen import Seen, check_maps, observe, relation_heads
from edgellm.errors import InputError


class Learner(nn.Module):
    """A student that learns from a teacher. Its state is the student's, and that of the projection between widths.

    The teacher is no part of the module: it is neither trained, nor saved, nor spread.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, signals: Signals, *, kind: str, heads: int,
        types: tuple[bool, bool],
    ) -> None:  # fmt: skip
        """Put the two side by side.

        Args:
            student, teacher: as the task wraps them (`tasks._torch.Wrapped`).
            signals: what is learned.
            kind: what they answer (see `labelled.kind_of`).
            heads: of the teacher's attention.
            types: whether the student, and whether the teacher, takes token_type_ids.

        Raises:
            InputError: a signal can't be had of these two.

        """
        super().__init__()
        self.student = student
        self.signals = signals
        self.kind = kind
        self._teacher = [teacher.eval().requires_grad_(False)]
        self._see = [observe(model, signals, types=on) for model, on in zip((student, teacher), types, strict=True)]
        self._alone = kind != "vector" and signals.hard == 1 and not signals.hidden and not signals.attention
        training = student.training
        student.eval()
        with torch.no_grad():
            mine, its = self._both(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64), None)
        student.train(training)
        if mine.answer.dim() == 3 and mine.answer.shape != its.answer.shape:
            raise InputError(
                f"The student's vectors of tokens have {mine.answer.shape[-1]} numbers, the teacher's "
                f"{its.answer.shape[-1]}: they can't be compared."
            )
        widths = [seen.states[-1].shape[-1] for seen in (mine, its) if seen.states]
        self._map = losses.layer_map(len(mine.states) - 1, len(its.states) - 1) if widths else ()
        self.project = nn.Linear(*widths, bias=False) if len(set(widths)) == 2 else None
        self._heads = 0
        if signals.attention and signals.attend == "relations":
            self._heads = relation_heads(mine, its, heads)
        elif signals.attention:
            check_maps(mine, its)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Return {"loss": scalar, "logits": the student's answers}.

        Args:
            input_ids, attention_mask, token_type_ids: int64 [B, T].
            labels: as `losses.hard_labels` takes them; of vectors any.

        """
        mine, its = self._both(input_ids, attention_mask, token_type_ids)
        loss = self._answers(mine.answer, its.answer, labels, attention_mask)
        if self.signals.hidden:
            loss = loss + self.signals.hidden * self._states(mine, its, attention_mask)
        if self.signals.attention:
            loss = loss + self.signals.attention * self._attention(mine, its, attention_mask)
        return {"loss": loss, "logits": mine.answer}

    def _both(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> tuple[Seen, Seen]:
        """Return what both make of a batch; the teacher is not run where nothing is learned of it."""
        mine = self._see[0](ids, mask, types)
        if self._alone:
            return mine, mine
        self._teacher[0].to(ids.device)
        with torch.no_grad():
            return mine, self._see[1](ids, mask, types)

    def _answers(self, mine: torch.Tensor, its: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.kind == "vector":
            if mine.shape != its.shape:
                return losses.similarities(mine, its)
            tokens = mask if mine.dim() == 3 else None
            return losses.vector_cosine(mine, its, tokens) + losses.vector_mse(mine, its, tokens)
        scores, signals, loss = KINDS_OF_LOGITS[self.kind], self.signals, mine.sum() * 0.0
        if signals.hard:
            hard = losses.hard_labels(mine, labels, smoothing=signals.smoothing, scores=scores)
            loss = loss + signals.hard * hard
        if signals.hard < 1:
            tokens = mask if self.kind == "tags" else None
            soft = losses.soft_labels(mine, its, temperature=signals.temperature, scores=scores, mask=tokens)
            loss = loss + (1 - signals.hard) * soft
        return loss

    def _states(self, mine: Seen, its: Seen, mask: torch.Tensor) -> torch.Tensor:
        compare = losses.hidden_mse if self.signals.match == "mse" else losses.hidden_cosine
        pairs = zip(mine.states, self._map, strict=True)
        return torch.stack([compare(x, its.states[g], mask, self.project) for x, g in pairs]).mean()

    def _attention(self, mine: Seen, its: Seen, mask: torch.Tensor) -> torch.Tensor:
        if self._heads:
            (q, k, v), (tq, tk, tv) = mine.attention, its.attention
            both = (((q, k), (tq, tk)), ((v, v), (tv, tv)))
            return torch.stack([losses.relations(x, y, mask, self._heads) for x, y in both]).sum()
        chosen = losses.layer_map(len(mine.attention), len(its.attention))[1:]
        pairs = zip(mine.attention, chosen, strict=True)
        return torch.stack([losses.attention_maps(x, its.attention[g - 1], mask) for x, g in pairs]).mean()
