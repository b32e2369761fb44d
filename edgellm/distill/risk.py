"""Risk: a CTC student that learns from outputs it might have given, by how wrong each is (Shen et al. 2016, minimum risk
training, https://arxiv.org/abs/1512.02433; for CTC Graves and Jaitly 2014, expected transcription loss).

The loss of a label is of all paths that say it. A device reads one, by the likeliest token of each slot: where two answers are
about as likely, slots that do not know of each other may say the beginning of one and the end of the other. An error that is
counted by the whole output makes the slots agree.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from edgellm.core.training import IGNORED
from edgellm.models.ctc import CtcOutput

DRAWS = 8
"""Paths that are drawn for each text."""


class Risky(nn.Module):
    """A CTC student whose loss in training mode also counts the outputs that would be wrong."""

    def __init__(self, student: nn.Module, *, blank: int, weight: float) -> None:
        """Take a student.

        Args:
            student: gives a `CtcOutput`.
            blank: its id.
            weight: of the share of outputs that are wrong, beside the student's own loss.

        """
        super().__init__()
        self.student = student
        self.blank, self.weight = blank, weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> CtcOutput:
        """Return what the student gives; in training mode the risk is part of its loss.

        Args:
            input_ids, attention_mask: int64 [batch, tokens].
            labels: int64 [batch, outputs], IGNORED where a row is padded.

        """
        mine: CtcOutput = self.student(input_ids, attention_mask, labels)
        if self.training:
            assert mine.loss is not None
            assert mine.logits is not None
            assert mine.slot_mask is not None
            mine.loss = mine.loss + self.weight * risk(mine.logits.float(), mine.slot_mask, labels, self.blank)
        return mine


def risk(logits: torch.Tensor, slot_mask: torch.Tensor, labels: torch.Tensor, blank: int) -> torch.Tensor:
    """Return the expected share of outputs that are wrong; its gradient is estimated from paths that are drawn.

    NaN where a logit is no finite number.

    An output's error is held against the mean of the others' of its text (REINFORCE, Williams 1992, with the baseline of
    Kool et al. 2019), which leaves the estimate unbiased.

    Args:
        logits: [batch, slots, vocabulary].
        slot_mask: [batch, slots], 0 where padded.
        labels: int64 [batch, outputs], IGNORED where padded.
        blank: id.

    """
    if not logits.isfinite().all():  # no path can be drawn; whoever watches the loss says that it diverged
        return logits.new_tensor(math.nan)
    chances = logits.log_softmax(-1)
    batch, slots, size = logits.shape
    drawn = torch.multinomial(chances.detach().exp().reshape(-1, size), DRAWS, replacement=True)
    paths = drawn.reshape(batch, slots, DRAWS)
    likely = (chances.gather(-1, paths) * slot_mask.unsqueeze(-1)).sum(1)
    error = wrong(paths.transpose(1, 2), slot_mask, labels, blank)
    others = (error.sum(1, keepdim=True) - error) / (DRAWS - 1)
    estimate = ((error - others) * likely).mean()
    return error.mean() + estimate - estimate.detach()


def wrong(paths: torch.Tensor, slot_mask: torch.Tensor, labels: torch.Tensor, blank: int) -> torch.Tensor:
    """Return 1 for each path whose output is not the label, and 0 for the others: float32 [batch, draws].

    Args:
        paths: int64 [batch, draws, slots].
        slot_mask: [batch, slots], 0 where padded.
        labels: int64 [batch, outputs], IGNORED where padded.
        blank: id.

    """
    said = collapsed(paths, slot_mask, blank)
    outputs = max(said.shape[-1], labels.shape[-1])
    said, wanted = (functional.pad(each, (0, outputs - each.shape[-1]), value=IGNORED) for each in (said, labels))
    return (said != wanted.unsqueeze(1)).any(-1).float()


def collapsed(paths: torch.Tensor, slot_mask: torch.Tensor, blank: int) -> torch.Tensor:
    """Return paths' outputs [batch, draws, longest], IGNORED behind their ends: equal neighbours are one token, blanks none."""
    before = functional.pad(paths[..., :-1], (1, 0), value=IGNORED)
    kept = (paths != before) & (paths != blank) & (slot_mask.unsqueeze(1) != 0)
    longest = int(kept.sum(-1).max())
    # What is not kept goes to one place behind all others, which is cut off.
    place = torch.where(kept, kept.cumsum(-1) - 1, longest)
    said = paths.new_full((*paths.shape[:-1], longest + 1), IGNORED)
    return said.scatter_(-1, place, paths)[..., :longest]
