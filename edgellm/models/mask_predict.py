"""A sequence-to-sequence model that predicts how long its output is, and then all of it at once.

Masked positions, as many as the predicted length, are read together with the encoder's states and filled in one pass; a
fixed number of further passes may mask what was least sure and fill it again (Mask-Predict, Ghazvininejad et al. 2019,
https://arxiv.org/abs/1904.09324). All passes are in the one graph: what more of them cost is paid openly, by its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertPreTrainedModel
from transformers.utils import ModelOutput

from edgellm.core.training import IGNORED
from edgellm.models.ctc import Layers

UNSAID = -30.0
"""Added to the logits of what stands for no token; finite, for what quantizes."""

LENGTH_WEIGHT = 0.1
"""Of the length's loss beside the tokens'."""


class MaskPredictConfig(transformers.BertConfig):
    """Configuration of `MaskPredictForSeq2Seq`; what is not here is BERT's, for both stacks of layers.

    Attributes:
        num_hidden_layers: layers over the input.
        num_slot_layers: layers over the input's states and the output's positions together.
        slots_per_token: output positions for each input token, of which the predicted length are used.
        refinements: passes over the output after the first.
        mask_token_id: of a position that is not filled.
        pad_token_id: of a position beyond the length.
        share_layers: whether each stack has one layer's weights only.

    """

    model_type = "edgellm-mask-predict"

    def __init__(
        self,
        num_slot_layers: int = 3,
        slots_per_token: int = 2,
        refinements: int = 0,
        mask_token_id: int = 1,
        share_layers: bool = False,
        **kwargs: Any,
    ) -> None:
        self.num_slot_layers = num_slot_layers
        self.slots_per_token = slots_per_token
        self.refinements = refinements
        self.mask_token_id = mask_token_id
        self.share_layers = share_layers
        kwargs.setdefault("type_vocab_size", 1)
        super().__init__(**kwargs)


@dataclass
class MaskPredictOutput(ModelOutput):
    """What all passes together give.

    Attributes:
        loss: mean over the batch, where labels were given.
        logits: [batch, slots, vocabulary] of the last pass; while it learns, [batch, outputs, vocabulary] of the one there is.
        ids: int64 [batch, slots]; pad_token_id beyond the length.
        scores: [batch, slots], the probability of each id when it was filled in; 1 beyond the length.
        slot_mask: [batch, slots], 1 up to the length; while it learns, [batch, outputs], true for what was masked.

    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    slot_mask: torch.Tensor | None = None


class MaskPredictForSeq2Seq(BertPreTrainedModel):
    """Encoder, a prediction of the length, and layers that fill positions."""

    config_class = MaskPredictConfig
    base_model_prefix = ""

    def __init__(self, config: MaskPredictConfig) -> None:
        super().__init__(config)
        width, most = config.hidden_size, config.slots_per_token * config.max_position_embeddings
        self.embeddings = BertEmbeddings(config)
        self.encoder = Layers(config, config.num_hidden_layers)
        self.length = nn.Linear(width, most + 1)
        self.places = nn.Embedding(most, width)
        self.place_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.slots = Layers(config, config.num_slot_layers)
        self.head = nn.Linear(width, config.vocab_size)
        self.place_ids = nn.Buffer(torch.arange(most).unsqueeze(0))  # kept, as loading makes no buffers anew
        unsaid = torch.zeros(config.vocab_size)
        unsaid[[config.mask_token_id, config.pad_token_id]] = UNSAID
        self.unsaid = nn.Buffer(unsaid)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None,
        **kwargs: object,
    ) -> MaskPredictOutput:  # fmt: skip
        """Predict the length and all positions; with labels in training mode, learn to fill positions masked at random.

        Args:
            input_ids: int64 [batch, tokens].
            attention_mask: [batch, tokens], 0 where a row is padded; all 1 if None.
            labels: int64 [batch, outputs], IGNORED where a row is padded.
            kwargs: of transformers' Trainer; unused.

        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.embeddings(input_ids=input_ids)
        bias = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        for layer in self.encoder:
            states = layer(states, bias)
        weight = mask.to(states.dtype).unsqueeze(1)
        lengths = self.length(torch.bmm(weight, states).squeeze(1) / weight.sum(-1))
        if labels is not None:
            learned = self._learn(states, mask, lengths, labels)
            return learned if self.training else self._fill(states, mask, lengths, learned.loss)
        return self._fill(states, mask, lengths, None)

    def _fill(
        self, states: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, loss: torch.Tensor | None
    ) -> MaskPredictOutput:
        places = self.place_ids[:, : states.shape[1] * self.config.slots_per_token]
        room = mask.sum(-1, keepdim=True) * self.config.slots_per_token
        chosen = torch.minimum(lengths.argmax(-1, keepdim=True), room)
        used = (places < chosen).to(mask.dtype)
        empty = torch.full_like(places, self.config.mask_token_id).expand(used.shape)
        ids = empty
        logits = scores = torch.zeros(0)
        for number in range(self.config.refinements + 1):
            if number:
                # The least sure are masked again, fewer from pass to pass.
                again = chosen.to(scores.dtype) * (1 - number / (self.config.refinements + 1))
                surer = (scores.unsqueeze(2) > scores.unsqueeze(1)) & (used.unsqueeze(1) > 0)
                ids = torch.where(surer.to(scores.dtype).sum(-1) < again, empty, ids)
            logits = self._pass(states, mask, ids, used)
            best, found = torch.softmax(logits, dim=-1).max(dim=-1)
            filled = ids == self.config.mask_token_id if number else torch.ones_like(used) > 0
            ids = torch.where(filled, found, ids)
            scores = torch.where(filled, best, scores) if number else best
        ids = torch.where(used > 0, ids, torch.full_like(ids, self.config.pad_token_id))
        scores = torch.where(used > 0, scores, torch.ones_like(scores))
        return MaskPredictOutput(loss=loss, logits=logits, ids=ids, scores=scores, slot_mask=used)

    def _pass(self, states: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
        """Return the logits of positions [batch, slots, vocabulary], which read the input and each other."""
        tokens = states.shape[1]
        placed = self.places(self.place_ids[:, : ids.shape[1]])
        targets = self.place_norm(self.embeddings.word_embeddings(ids) + placed)
        joint = torch.cat((states, targets), dim=1)
        seen = torch.cat((mask, used), dim=1)
        bias = create_bidirectional_mask(config=self.config, inputs_embeds=joint, attention_mask=seen)
        for layer in self.slots:
            joint = layer(joint, bias)
        logits: torch.Tensor = self.head(joint[:, tokens:]) + self.unsaid
        return logits

    def _learn(
        self, states: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor
    ) -> MaskPredictOutput:
        real = labels != IGNORED
        count = real.sum(-1)
        if self.training:
            # As many as by lot, from one to all of them.
            lot = torch.rand(labels.shape, device=labels.device).masked_fill(~real, 2.0)
            masked = (torch.rand(len(labels), device=labels.device) * count).ceil().clamp(min=1)
            hidden = (lot.argsort(-1).argsort(-1) < masked.unsqueeze(-1)) & real
        else:
            hidden = real
        shown = torch.where(real, labels, self.config.pad_token_id)
        ids = torch.where(hidden, self.config.mask_token_id, shown)
        logits = self._pass(states, mask, ids, real.to(mask.dtype)).float()
        tokens = functional.cross_entropy(
            logits.flatten(0, 1), labels.masked_fill(~hidden, IGNORED).flatten(), ignore_index=IGNORED,
            label_smoothing=0.1 if self.training else 0.0,
        )  # fmt: skip
        loss = tokens + LENGTH_WEIGHT * functional.cross_entropy(
            lengths.float(), count.clamp(max=lengths.shape[-1] - 1)
        )
        return MaskPredictOutput(loss=loss, logits=logits, slot_mask=hidden)


def register() -> None:
    """Make the classes known to transformers' auto classes. Idempotent."""
    transformers.AutoConfig.register(MaskPredictConfig.model_type, MaskPredictConfig, exist_ok=True)
    transformers.AutoModelForCTC.register(MaskPredictConfig, MaskPredictForSeq2Seq, exist_ok=True)
