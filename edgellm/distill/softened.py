"""Softened: a one-pass student that learns its teacher's probabilities beside its labels (Hinton et al. 2015).

Two models can be compared where they answer in the same places. Two CTC models of as many slots for each token do, slot by
slot: blanks count as any token does, and the student takes over where the teacher says what. A student of masks and a teacher
that answers token by token both answer in the positions of the output. The teacher reads the target up to a position, the
student what is not masked of it: positions that the student is shown have nothing to teach.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edgellm.core.training import IGNORED
from edgellm.distill.kinds import OnePass
from edgellm.distill.losses import soft_labels
from edgellm.distill.teachers import Autoregressive, OnePassTeacher, Teacher
from edgellm.errors import InputError, UsageError
from edgellm.models.ctc import CtcForSeq2Seq, CtcOutput
from edgellm.models.mask_predict import MaskPredictForSeq2Seq, MaskPredictOutput

Taught = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes input_ids, attention_mask and labels, and returns the teacher's logits [batch, places, its vocabulary]."""


class Softened(nn.Module):
    """A student beside its teacher. The teacher is no part of the module: it is neither trained, nor saved, nor spread."""

    def __init__(self, student: OnePass, teacher: Teacher, *, weight: float, temperature: float, target: str) -> None:
        """Put the two side by side.

        Args:
            student: that learns.
            teacher: with the student's vocabulary.
            weight: of the teacher's probabilities, beside 1 for the labels.
            temperature: that the logits of both are divided by.
            target: any output.

        Raises:
            UsageError: the two do not answer in the same places.
            InputError: they do not answer in the same tokens.

        """
        super().__init__()
        self.student = student
        self.weight, self.temperature = weight, temperature
        teacher.model.requires_grad_(False)
        self.compared: torch.Tensor | None = None
        """Ids that are compared; all if None."""
        if isinstance(teacher, OnePassTeacher):
            self._teach = _slots(student, teacher)
        elif isinstance(student, MaskPredictForSeq2Seq) and isinstance(teacher, Autoregressive):
            self._teach = _positions(teacher, target)
            self.compared = _sayable(student, teacher)
        else:
            raise UsageError(
                "--soft has no use for a CTC student of a teacher that answers token by token: its tokens have no slots to be "
                "compared with.",
                hint="Leave it out: the teacher's labels carry what it knows. A mask-predict student has such places.",
            )

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> CtcOutput | MaskPredictOutput:
        """Return what the student gives; in training mode the loss is of labels and of the teacher's probabilities.

        Args:
            input_ids, attention_mask: int64 [batch, tokens].
            labels: int64 [batch, outputs], IGNORED where a row is padded.

        """
        mine: CtcOutput | MaskPredictOutput = self.student(input_ids, attention_mask, labels)
        if not self.training:
            return mine
        assert mine.loss is not None
        assert mine.logits is not None
        with torch.no_grad():
            its = self._teach(input_ids, attention_mask, labels)
        logits = mine.logits
        if self.compared is not None:
            ids = self.compared.to(logits.device)
            logits, its = logits[..., ids], its[..., ids]
        apart = soft_labels(logits.float(), its.float(), temperature=self.temperature, mask=mine.slot_mask)
        mine.loss = mine.loss + self.weight * apart
        return mine


def _slots(student: OnePass, teacher: OnePassTeacher) -> Taught:
    its, model = teacher.model.config, teacher.model
    if not isinstance(student, CtcForSeq2Seq) or not isinstance(model, CtcForSeq2Seq):
        raise UsageError(
            "--soft compares a student with a teacher that answers in one pass only if both are CTC models.",
            hint="Leave it out: the teacher's labels are learned all the same.",
        )
    mine = student.config
    for what, x, y, hint in (
        ("slots for each token", mine.slots_per_token, its.slots_per_token, f"--slots {its.slots_per_token}"),
        ("tokens in its vocabulary", mine.vocab_size, its.vocab_size, "a student like the teacher"),
        ("as the blank's id", mine.pad_token_id, its.pad_token_id, "a student like the teacher"),
    ):
        if x != y:
            raise InputError(
                f"The student has {x} {what}, the teacher {y}: what they say can't be compared slot by slot.",
                hint=f"Begin with {hint}, or leave out --soft.",
            )

    def teach(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model.to(input_ids.device)(input_ids, attention_mask).logits
        return logits

    return teach


def _positions(teacher: Autoregressive, target: str) -> Taught:
    model, pad = teacher.model, teacher.model.config.pad_token_id
    begin = torch.tensor([teacher.begin(target)])

    def teach(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, pad)
        given = torch.cat((begin.to(labels.device).expand(len(labels), -1), before), dim=1)
        logits: torch.Tensor = model.to(input_ids.device)(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=given, use_cache=False
        ).logits
        return logits[:, -labels.shape[1] :]

    return teach


def _sayable(student: OnePass, teacher: Autoregressive) -> torch.Tensor:
    """Return the ids that both can say: a student's length is no token, as a teacher's end is."""
    special = {id for id, token in teacher.write.get_added_tokens_decoder().items() if token.special}
    size = min(student.config.vocab_size, teacher.model.config.vocab_size)
    return torch.tensor([id for id in range(size) if id not in special])
