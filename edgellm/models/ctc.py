"""A sequence-to-sequence model that answers in one forward pass.

An encoder reads the tokens of the input. Each of its states is split into `slots_per_token` slots (Libovicky and Helcl 2018,
https://arxiv.org/abs/1811.04719), more layers let the slots see each other, and every slot names one output token or none.
Equal neighbours are one token, and blanks are dropped: connectionist temporal classification (Graves et al. 2006).

Slots are predicted independently of each other. What that costs is eased by letting inner layers predict as well, and
adding what they say to what the next layer reads (self-conditioning, Nozaki and Komatsu 2021,
https://arxiv.org/abs/2104.02724): it is still one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertPreTrainedModel
from transformers.utils import ModelOutput

from edgellm.core.training import IGNORED


class CtcConfig(transformers.BertConfig):
    """Configuration of `CtcForSeq2Seq`; what is not here is BERT's, for both stacks of layers.

    Attributes:
        num_hidden_layers: layers over tokens.
        num_slot_layers: layers over slots.
        slots_per_token: output places for each input token; an output that needs more can't be said.
        conditioned_layers: slot layers, counted from 1, behind which predictions are made and fed back.
        share_layers: whether each stack has one layer's weights only, used again and again (Lan et al. 2020, ALBERT).
        pad_token_id: the blank, too.

    """

    model_type = "edgellm-ctc"

    def __init__(
        self,
        num_slot_layers: int = 3,
        slots_per_token: int = 2,
        conditioned_layers: tuple[int, ...] | list[int] = (),
        share_layers: bool = False,
        **kwargs: Any,
    ) -> None:
        self.num_slot_layers = num_slot_layers
        self.slots_per_token = slots_per_token
        self.conditioned_layers = list(conditioned_layers)
        self.share_layers = share_layers
        kwargs.setdefault("type_vocab_size", 1)
        super().__init__(**kwargs)


@dataclass
class CtcOutput(ModelOutput):
    """What one pass gives.

    Attributes:
        loss: mean over the batch, where labels were given.
        logits: [batch, slots, vocabulary]; token 0 .. slots_per_token - 1 of a batch's row are of its first token.
        inner_logits: of each conditioned layer, likewise.
        slot_mask: [batch, slots], 1 where a slot is of a token.

    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    inner_logits: tuple[torch.Tensor, ...] | None = None
    slot_mask: torch.Tensor | None = None


class Layers(nn.Module):
    """BERT's layers, one after the other, or one of them again and again."""

    def __init__(self, config: CtcConfig, times: int) -> None:
        super().__init__()
        self.times = times
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(1 if config.share_layers else times)])

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.layer[number % len(self.layer)] for number in range(self.times))


class CtcForSeq2Seq(BertPreTrainedModel):
    """Encoder, slots, and a head over the vocabulary.

    Raises:
        ValueError: a conditioned layer is not one of the slot layers before the last.

    """

    config_class = CtcConfig
    base_model_prefix = ""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__(config)
        if not all(0 < number < config.num_slot_layers for number in config.conditioned_layers):
            raise ValueError(f"conditioned_layers {config.conditioned_layers}: 1 to {config.num_slot_layers - 1} are")
        width = config.hidden_size
        self.embeddings = BertEmbeddings(config)
        self.encoder = Layers(config, config.num_hidden_layers)
        self.split = nn.Linear(width, width * config.slots_per_token)
        self.split_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.slots = Layers(config, config.num_slot_layers)
        self.head = nn.Linear(width, config.vocab_size)
        self.feedback = nn.Linear(config.vocab_size, width) if config.conditioned_layers else None
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None,
        **kwargs: object,
    ) -> CtcOutput:  # fmt: skip
        """Predict all slots.

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
        batch, tokens, width = states.shape
        each = self.config.slots_per_token
        states = self.split_norm(self.split(states).reshape(batch, tokens * each, width))
        slot_mask = mask.unsqueeze(-1).expand(batch, tokens, each).reshape(batch, tokens * each)
        bias = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=slot_mask)
        inner: list[torch.Tensor] = []
        for number, layer in enumerate(self.slots, 1):
            states = layer(states, bias)
            if self.feedback is not None and number in self.config.conditioned_layers:
                inner.append(self.head(states))
                states = states + self.feedback(torch.softmax(inner[-1], dim=-1))
        logits = self.head(states)
        loss = None
        if labels is not None:
            each_loss = [ctc_loss(part, slot_mask, labels, self.config.pad_token_id) for part in (logits, *inner)]
            loss = each_loss[0] if not inner else 0.5 * each_loss[0] + 0.5 * torch.stack(each_loss[1:]).mean()
        return CtcOutput(loss=loss, logits=logits, inner_logits=tuple(inner) or None, slot_mask=slot_mask)


def ctc_loss(logits: torch.Tensor, slot_mask: torch.Tensor, labels: torch.Tensor, blank: int) -> torch.Tensor:
    """Return the mean over rows of a row's negative log-likelihood by its number of labels.

    A row whose labels need more slots than it has contributes nothing: whoever trains counts those before.

    Args:
        logits: [batch, slots, vocabulary].
        slot_mask: [batch, slots].
        labels: [batch, outputs], IGNORED where padded.
        blank: id.

    """
    lengths = (labels != IGNORED).sum(-1)
    return functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1), labels.clamp(min=0), slot_mask.sum(-1).long(), lengths,
        blank=blank, zero_infinity=True,
    )  # fmt: skip


def register() -> None:
    """Make the classes known to transformers' auto classes. Idempotent."""
    transformers.AutoConfig.register(CtcConfig.model_type, CtcConfig, exist_ok=True)
    transformers.AutoModelForCTC.register(CtcConfig, CtcForSeq2Seq, exist_ok=True)
