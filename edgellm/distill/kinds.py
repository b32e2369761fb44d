"""Kinds: what one-pass models of each kind do in their own way. What is trained, and how, is the same for all (`sequences`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from edgellm.core.training import IGNORED
from edgellm.distill.students import CTC_TYPE, MASK_PREDICT_TYPE, STUDENTS, type_of
from edgellm.errors import InputError, UsageError
from edgellm.models.ctc import CtcConfig, CtcForSeq2Seq
from edgellm.models.mask_predict import MaskPredictConfig, MaskPredictForSeq2Seq
from edgellm.stages.load import load
from edgellm.stages.source import check_folder, read_source
from edgellm.tasks._ctc import collapse, slots_needed

OnePass = CtcForSeq2Seq | MaskPredictForSeq2Seq
"""A model whose configuration has slots_per_token, max_position_embeddings and pad_token_id."""

MOST_REFINEMENTS = 16


class Kind(Protocol):
    """A kind of one-pass model."""

    TASK: str

    def fresh(self, shape: Mapping[str, Any], vocabulary: Mapping[str, int], *, slots: int, longest: int) -> OnePass:
        """Return an untrained model of a shape in `STUDENTS`.

        Raises:
            InputError: the vocabulary lacks a token that it needs.

        """

    def refine(self, model: OnePass, passes: int) -> None:
        """Make a model go over its answer so often.

        Raises:
            UsageError: it can't, or not so often.

        """

    def places(self, ids: Sequence[int]) -> int:
        """Return how many places an output takes."""

    def said(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the token of each place, int64 [batch, places], IGNORED where a row has none.

        Args:
            outputs: of the model's forward, in order, without the loss.

        """

    def read(self, places: Iterable[int], pad: int) -> tuple[int, ...]:
        """Return the output that the tokens of the places stand for; `pad` is the model's."""


class _Ctc:
    TASK = "ctc-seq2seq"

    def fresh(self, shape: Mapping[str, Any], vocabulary: Mapping[str, int], *, slots: int, longest: int) -> OnePass:
        config = CtcConfig(
            vocab_size=max(vocabulary.values()) + 1, pad_token_id=_pad(vocabulary, "the blank"), slots_per_token=slots,
            max_position_embeddings=longest, **shape,
        )  # fmt: skip
        return CtcForSeq2Seq(config)

    def refine(self, model: OnePass, passes: int) -> None:
        raise UsageError(
            "--refinements has no use for a CTC student: it has no masks to fill again.", hint="Leave it out."
        )

    def places(self, ids: Sequence[int]) -> int:
        return slots_needed(ids)

    def said(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        logits, mask = outputs[0], outputs[-1]
        return logits.argmax(-1).masked_fill(mask == 0, IGNORED)

    def read(self, places: Iterable[int], pad: int) -> tuple[int, ...]:
        return collapse((id for id in places if id != IGNORED), pad)


class _MaskPredict:
    TASK = "mask-predict-seq2seq"

    def fresh(self, shape: Mapping[str, Any], vocabulary: Mapping[str, int], *, slots: int, longest: int) -> OnePass:
        size = max(vocabulary.values()) + 1
        mask = next((vocabulary[name] for name in ("<mask>", "[MASK]") if name in vocabulary), None)
        config = MaskPredictConfig(
            # A vocabulary without a mask gets one that no text can name.
            vocab_size=size + (mask is None), mask_token_id=size if mask is None else mask,
            pad_token_id=_pad(vocabulary, "what stands beyond an output's end"), slots_per_token=slots,
            max_position_embeddings=longest, **shape,
        )  # fmt: skip
        return MaskPredictForSeq2Seq(config)

    def refine(self, model: OnePass, passes: int) -> None:
        if not 0 <= passes <= MOST_REFINEMENTS:
            raise UsageError(f"--refinements is {passes}; it goes from 0 to {MOST_REFINEMENTS}.")
        model.config.refinements = passes

    def places(self, ids: Sequence[int]) -> int:
        return len(ids)

    def said(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        _, ids, _, mask = outputs
        return ids.masked_fill(mask == 0, IGNORED)

    def read(self, places: Iterable[int], pad: int) -> tuple[int, ...]:
        return tuple(id for id in places if id not in (IGNORED, pad))


_KINDS: dict[str, Kind] = {CTC_TYPE: _Ctc(), MASK_PREDICT_TYPE: _MaskPredict()}


def kind_of(model: OnePass) -> Kind:
    """Return the kind of a model."""
    return _KINDS[model.config.model_type]


def fresh(student: str, vocabulary: Mapping[str, int], *, slots: int, longest: int) -> OnePass:
    """Return an untrained student by its name.

    Args:
        student: a key of `STUDENTS`.
        vocabulary: tokens and their ids.
        slots: output places for each input token.
        longest: tokens of an input at most.

    Raises:
        UsageError: a number is out of its range.
        InputError: the vocabulary lacks a token that it needs.

    """
    for name, value, most in (("slots", slots, 64), ("longest", longest, 4096)):
        if not 1 <= value <= most:
            raise UsageError(f"--{name} is {value}; it goes from 1 to {most}.")
    return _KINDS[str(type_of(student))].fresh(STUDENTS[student], vocabulary, slots=slots, longest=longest)


def opened(folder: Path) -> OnePass:
    """Return the one-pass model in a folder, in fp32; it may be pruned.

    Raises:
        InputError: there is none, or it can't be loaded.

    """
    check_folder(folder)
    kind = _KINDS.get(type_of(folder) or "")
    if kind is None:
        raise InputError(
            f"{folder} holds no one-pass model of sequences.", hint="'edgellm distill --student ctc-small' makes one."
        )
    model = load(read_source(str(folder), task=kind.TASK, tokenizer=None, pooling=None, describe=lambda name: {}))
    assert isinstance(model, CtcForSeq2Seq | MaskPredictForSeq2Seq)
    return model


def _pad(vocabulary: Mapping[str, int], what: str) -> int:
    pad = next((vocabulary[name] for name in ("<pad>", "[PAD]") if name in vocabulary), None)
    if pad is None:
        raise InputError(f"The vocabulary has no <pad> or [PAD], which is {what}.")
    return pad
