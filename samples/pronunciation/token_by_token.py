"""The baseline on the same engine: an autoregressive model as two ONNX graphs, with a cache of keys and values.

What one pass is held against has to be as good as its kind can be here: attention over the input is projected once, a step
computes one position, greedily, its graphs are rewritten and quantized as `edgellm build` does for ONNX, and ONNX Runtime runs
all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import BartForConditionalGeneration

ENCODER, STEP = "encoder.onnx", "step.onnx"

MOST = 48
"""Tokens of an output at most."""


class Encode(nn.Module):
    """From letters to the keys and values that every step looks at: [layers, heads, letters, width] each."""

    def __init__(self, model: BartForConditionalGeneration) -> None:
        super().__init__()
        self.encoder, self.layers = model.model.encoder, model.model.decoder.layers

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of letters [1, letters]."""
        states = self.encoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state
        keys = torch.cat([_heads(layer.encoder_attn, layer.encoder_attn.k_proj(states)) for layer in self.layers])
        values = torch.cat([_heads(layer.encoder_attn, layer.encoder_attn.v_proj(states)) for layer in self.layers])
        return keys, values


class Step(nn.Module):
    """From one token to the next one, and the cache with one position more: [layers, heads, positions, width] each."""

    def __init__(self, model: BartForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.head, self.bias = model.model.decoder, model.lm_head, model.final_logits_bias

    def forward(
        self, token: torch.Tensor, place: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
        past_keys: torch.Tensor, past_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
        """Return the token behind `token` [1, 1], which stands at `place` [1, 1], and the grown cache."""
        decoder = self.decoder
        places = decoder.embed_positions
        states = decoder.embed_tokens(token) + nn.functional.embedding(place + places.offset, places.weight)
        states = decoder.layernorm_embedding(states)
        new_keys, new_values = [], []
        for number, layer in enumerate(decoder.layers):
            own = layer.self_attn
            new_keys.append(torch.cat((past_keys[number : number + 1], _heads(own, own.k_proj(states))), dim=2))
            new_values.append(torch.cat((past_values[number : number + 1], _heads(own, own.v_proj(states))), dim=2))
            states = layer.self_attn_layer_norm(states + _attend(own, states, new_keys[-1], new_values[-1]))
            other = layer.encoder_attn
            seen = _attend(other, states, keys[number : number + 1], values[number : number + 1])
            states = layer.encoder_attn_layer_norm(states + seen)
            states = layer.final_layer_norm(states + layer.fc2(layer.activation_fn(layer.fc1(states))))
        logits = self.head(states) + self.bias
        return logits.argmax(-1), torch.cat(new_keys), torch.cat(new_values)


def _heads(attention: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Return states [1, positions, heads * width] as [1, heads, positions, width]."""
    return states.reshape(1, -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def _attend(attention: nn.Module, states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return what one position [1, 1, width] takes from keys and values."""
    query = _heads(attention, attention.q_proj(states)) * attention.scaling
    mixed = torch.softmax(query @ keys.transpose(2, 3), dim=-1) @ values
    return attention.out_proj(mixed.transpose(1, 2).reshape(1, 1, -1))


def export(model: BartForConditionalGeneration, folder: Path, *, int8: bool) -> None:
    """Write both graphs."""
    import onnx

    from edgellm.backends.onnx import as_built

    model.eval()
    config, letters, past = model.config, torch.export.Dim("letters", min=1, max=64), torch.export.Dim("past", max=64)
    heads = config.decoder_attention_heads
    shape = (config.decoder_layers, heads, 5, config.d_model // heads)
    # Each a tensor of its own: the exporter takes one that is given twice for one input.
    caches = [torch.zeros(shape) for _ in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, module, inputs, names, shapes in (
        (ENCODER, Encode(model), (torch.ones((1, 7), dtype=torch.long),), (["input_ids"], ["keys", "values"]), ({1: letters},)),
        (
            STEP, Step(model), (torch.ones((1, 1), dtype=torch.long), torch.tensor([[5]]), *caches),
            (["token", "place", "keys", "values", "past_keys", "past_values"], ["next", "all_keys", "all_values"]),
            (None, None, {2: letters}, {2: letters}, {2: past}, {2: past}),
        ),
    ):  # fmt: skip
        program = torch.onnx.export(
            module.eval(), inputs, dynamo=True, opset_version=20, verbose=False, input_names=names[0], output_names=names[1],
            dynamic_shapes=shapes,
        )  # fmt: skip
        assert program is not None
        onnx.save(as_built(program.model_proto, folder, int8=int8), str(folder / name))


@dataclass(frozen=True)
class TokenByToken:
    """Both graphs, opened with one thread."""

    encoder: onnxruntime.InferenceSession
    step: onnxruntime.InferenceSession
    start: int
    end: int
    empty: NDArray[np.float32]

    @classmethod
    def open(cls, folder: Path, model: BartForConditionalGeneration) -> TokenByToken:
        """Open the graphs of a model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        config = model.config
        shape = (
            config.decoder_layers,
            config.decoder_attention_heads,
            0,
            config.d_model // config.decoder_attention_heads,
        )
        return cls(
            onnxruntime.InferenceSession(str(folder / ENCODER), options, providers=["CPUExecutionProvider"]),
            onnxruntime.InferenceSession(str(folder / STEP), options, providers=["CPUExecutionProvider"]),
            config.decoder_start_token_id, config.eos_token_id, np.zeros(shape, np.float32),
        )  # fmt: skip

    def __call__(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens that greedy search gives."""
        keys, values = self.encoder.run(None, {"input_ids": np.array([ids])})
        past = {"past_keys": self.empty, "past_values": self.empty}
        said: list[int] = []
        token = self.start
        while len(said) < MOST:
            found, past_keys, past_values = self.step.run(
                None,
                {
                    "token": np.array([[token]]),
                    "place": np.array([[len(said)]]),
                    "keys": keys,
                    "values": values,
                    **past,
                },
            )
            past = {"past_keys": past_keys, "past_values": past_values}
            token = int(found[0, 0])
            if token == self.end:
                break
            said.append(token)
        return said
