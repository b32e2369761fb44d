"""A sequence-to-sequence model that answers in one forward pass.

An encoder reads the tokens of the input. Each of its states is split into `slots_per_token` slots (Libovicky and Helcl 2018,
https://arxiv.org/abs/1811.04719), more layers may let the slots see each other, and every slot names one output token or none.
Equal neighbours are one token, and blanks are dropped: connectionist temporal classification (Graves et al. 2006).

Slots are predicted independently of each other. What that costs is eased by letting inner layers predict as well, and
adding what they say to what the next layer reads (self-conditioning, Nozaki and Komatsu 2021,
https://arxiv.org/abs/2104.02724): it is still one pass.

Inner layers may as well predict while the model learns, and be no part of it later (intermediate loss, Lee and Watanabe
2021, https://arxiv.org/abs/2102.03216).

A layer over slots computes `slots_per_token` times what one over tokens does. Without any, nothing is split: the head
reads a token's state and names all of its slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

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
        num_slot_layers: layers over slots; may be 0.
        slots_per_token: output places for each input token; an output that needs more can't be said.
        conditioned_layers: layers of the last stack, counted from 1, behind which predictions are made and fed back.
        supervised_layers: the same, but where predictions are made only to be learned from.
        share_layers: whether each stack has one layer's weights only, used again and again (Lan et al. 2020, ALBERT).
        pad_token_id: the blank, too.

    """

    model_type = "edgellm-ctc"

    def __init__(
        self,
        num_slot_layers: int = 3,
        slots_per_token: int = 2,
        conditioned_layers: tuple[int, ...] | list[int] = (),
        supervised_layers: tuple[int, ...] | list[int] = (),
        share_layers: bool = False,
        **kwargs: Any,
    ) -> None:
        self.num_slot_layers = num_slot_layers
        self.slots_per_token = slots_per_token
        self.conditioned_layers = list(conditioned_layers)
        self.supervised_layers = list(supervised_layers)
        self.share_layers = share_layers
        kwargs.setdefault("type_vocab_size", 1)
        super().__init__(**kwargs)

    @property
    def last_stack(self) -> str:
        """The attribute that counts the layers whose states are predicted from."""
        return "num_slot_layers" if self.num_slot_layers else "num_hidden_layers"


@dataclass
class CtcOutput(ModelOutput):
    """What one pass gives.

    Attributes:
        loss: mean over the batch, where labels were given.
        logits: [batch, slots, vocabulary]; token 0 .. slots_per_token - 1 of a batch's row are of its first token.
        inner_logits: of each conditioned layer, likewise; of each supervised one as well, where labels were given.
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
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(min(times, 1) if config.share_layers else times)])

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.layer[number % len(self.layer)] for number in range(self.times))


class CtcForSeq2Seq(BertPreTrainedModel):
    """Encoder, slots, and a head over the vocabulary.

    Raises:
        ValueError: a conditioned or supervised layer is not one of the last stack before its last.

    """

    config_class = CtcConfig
    base_model_prefix = ""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__(config)
        layers = getattr(config, config.last_stack)
        for name in ("conditioned_layers", "supervised_layers"):
            if not all(0 < number < layers for number in getattr(config, name)):
                raise ValueError(f"{name} {getattr(config, name)}: 1 to {layers - 1} are")
        width, each = config.hidden_size, config.slots_per_token
        self.embeddings = BertEmbeddings(config)
        self.encoder = Layers(config, config.num_hidden_layers)
        self.slots = Layers(config, config.num_slot_layers)
        named = config.vocab_size
        if config.num_slot_layers:
            self.split = nn.Linear(width, width * each)
            self.split_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        else:
            named *= each
        self.head = nn.Linear(width, named)
        self.feedback = nn.Linear(named, width) if config.conditioned_layers else None
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
        batch, tokens = input_ids.shape
        each = self.config.slots_per_token
        slot_mask = mask.unsqueeze(-1).expand(batch, tokens, each).reshape(batch, tokens * each)
        inner: list[torch.Tensor] = []
        predicting = set(self.config.conditioned_layers)
        if labels is not None:
            predicting |= set(self.config.supervised_layers)
        states = self.embeddings(input_ids=input_ids)
        if self.config.num_slot_layers:
            states = self._split(self._through(self.encoder, states, mask, set(), inner))
            states = self._through(self.slots, states, slot_mask, predicting, inner)
        else:
            states = self._through(self.encoder, states, mask, predicting, inner)
        logits = self._by_slot(self.head(states))
        loss = None
        if labels is not None:
            each_loss = [ctc_loss(part, slot_mask, labels, self.config.pad_token_id) for part in (logits, *inner)]
            loss = each_loss[0] if not inner else 0.5 * each_loss[0] + 0.5 * torch.stack(each_loss[1:]).mean()
        return CtcOutput(loss=loss, logits=logits, inner_logits=tuple(inner) or None, slot_mask=slot_mask)

    def _through(
        self, layers: Layers, states: torch.Tensor, mask: torch.Tensor, predicting: set[int], inner: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return states [batch, places, width] behind a stack; `inner` gets what its layers in `predicting` say."""
        bias = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        for number, layer in enumerate(layers, 1):
            states = layer(states, bias)
            if number not in predicting:
                continue
            said = self.head(states)
            inner.append(self._by_slot(said))
            if self.feedback is not None and number in self.config.conditioned_layers:
                heard = torch.softmax(inner[-1], dim=-1)
                states = states + self.feedback(heard if self.config.num_slot_layers else heard.reshape(said.shape))
        return states

    def _by_slot(self, said: torch.Tensor) -> torch.Tensor:
        """Return what the head says as logits [batch, slots, vocabulary]."""
        return said if self.config.num_slot_layers else said.reshape(len(said), -1, self.config.vocab_size)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """Return states [batch, tokens, width] as those of slots."""
        batch, tokens, width = states.shape
        return cast(
            torch.Tensor,
            self.split_norm(self.split(states).reshape(batch, tokens * self.config.slots_per_token, width)),
        )


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
