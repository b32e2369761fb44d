"""Blocks: a model's layers, and in each the linears that heads and feed-forward neurons are made of, found by their names.

Finding them says nothing about whether the code around them lets them shrink: `surgery.probe` tries that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgellm.errors import InputError
from edgellm.prune.choose import Shape


@dataclass(frozen=True)
class Layout:
    """Where a family of architectures has the linears of a layer.

    Attributes:
        attention: queries, keys and values.
        attended: the linear that reads all heads.
        owner: module that knows the width of a head.
        feed: linears whose outputs are the neurons; several where one gates the other.
        fed: the linear that reads the neurons.

    """

    attention: tuple[str, str, str]
    attended: str
    owner: str
    feed: tuple[str, ...]
    fed: str


LAYOUTS = (
    # BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, ERNIE, CtcForSeq2Seq
    Layout(
        ("attention.self.query", "attention.self.key", "attention.self.value"), "attention.output.dense",
        "attention.self", ("intermediate.dense",), "output.dense",
    ),
    # DistilBERT
    Layout(
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin", "attention", ("ffn.lin1",), "ffn.lin2"
    ),
    # MPNet
    Layout(
        ("attention.attn.q", "attention.attn.k", "attention.attn.v"), "attention.attn.o", "attention.attn",
        ("intermediate.dense",), "output.dense",
    ),
    # ALBERT
    Layout(("attention.query", "attention.key", "attention.value"), "attention.dense", "attention", ("ffn",), "ffn_output"),
    # T5's encoder, and that of its later versions
    Layout(
        ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"), "layer.0.SelfAttention.o",
        "layer.0.SelfAttention", ("layer.1.DenseReluDense.wi",), "layer.1.DenseReluDense.wo",
    ),
    Layout(
        ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"), "layer.0.SelfAttention.o",
        "layer.0.SelfAttention", ("layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"),
        "layer.1.DenseReluDense.wo",
    ),
    # NomicBERT
    Layout(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", "self_attn",
        ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj",
    ),
)  # fmt: skip

_WIDTHS = ("attention_head_size", "head_dim", "key_value_proj_dim")


@dataclass(frozen=True)
class Block:
    """One layer.

    Attributes:
        name: of the module.
        module: the layer.
        attention: queries, keys and values.
        attended: reads all heads.
        head: width of one.
        feed: their outputs are the neurons.
        fed: reads the neurons.

    """

    name: str
    module: nn.Module
    attention: tuple[nn.Linear, ...]
    attended: nn.Linear
    head: int
    feed: tuple[nn.Linear, ...]
    fed: nn.Linear

    @property
    def heads(self) -> int:
        """How many it has."""
        return self.attended.in_features // self.head


@dataclass(frozen=True)
class Stack:
    """Layers one after the other.

    Attributes:
        name: of the list: "bert.encoder.layer".
        layers: the list.
        count: name of the configuration's field that says how many there are.
        fixed: layers that have to stay, by number in the list.
        shared: whether layers are computed more than once.

    """

    name: str
    layers: nn.ModuleList
    count: str
    fixed: frozenset[int]
    shared: bool


@dataclass(frozen=True)
class Encoder:
    """What can be pruned of a model.

    Attributes:
        model: all of it.
        blocks: its layers, stack by stack.
        stacks: of them.

    """

    model: Any
    blocks: tuple[Block, ...]
    stacks: tuple[Stack, ...]

    def stack_of(self, number: int) -> tuple[int, int]:
        """Return the stack of a block, and its number there."""
        for index, stack in enumerate(self.stacks):
            if number < len(stack.layers):
                return index, number
            number -= len(stack.layers)
        raise IndexError(number)

    def shapes(self) -> list[Shape]:
        """Return what there is of each layer."""
        shapes = []
        for number, block in enumerate(self.blocks):
            index, place = self.stack_of(number)
            stack = self.stacks[index]
            per_head = sum(_row(linear) for linear in block.attention) * block.head
            shapes.append(
                Shape(
                    block.name, index, block.heads, block.fed.in_features,
                    per_head + block.attended.out_features * block.head,
                    sum(_row(linear) for linear in block.feed) + block.fed.out_features,
                    sum(parameter.numel() for parameter in block.module.parameters()),
                    not stack.shared and place not in stack.fixed,
                )
            )  # fmt: skip
        return shapes


def find(model: nn.Module) -> Encoder:
    """Return a model's layers.

    Raises:
        InputError: it has none of a known layout.

    """
    stacks, blocks = [], []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        found = [_block(f"{name}.{number}", layer) for number, layer in enumerate(module)]
        if all(block is not None for block in found):
            stacks.append(_stack(model, name, module))
            blocks += [block for block in found if block is not None]
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no layers that edgellm knows how to prune.",
            hint="It knows those of BERT, RoBERTa, XLM-RoBERTa, ELECTRA, DistilBERT, ALBERT, MPNet, NomicBERT, T5's encoder "
            "and edgellm's own CtcForSeq2Seq.",
        )
    return Encoder(model, tuple(blocks), tuple(stacks))


def _stack(model: Any, name: str, layers: nn.ModuleList) -> Stack:
    config = model.config
    last = name.rpartition(".")[0].rpartition(".")[2]
    count = "num_slot_layers" if last == "slots" else "num_hidden_layers"
    shared = getattr(config, count, len(layers)) != len(layers)
    # What a conditioned layer says is fed back behind it; the last layer's can't be.
    heard = list(getattr(config, "conditioned_layers", ())) if count == getattr(config, "last_stack", "") else []
    fixed = {number - 1 for number in heard} | ({len(layers) - 1} if heard else set())
    # What one layer alone holds, the others read: T5's table of distances is in the first.
    names = [frozenset(key for key, _ in layer.named_parameters()) for layer in layers]
    fixed |= {number for number, own in enumerate(names) if own != frozenset.intersection(*names)}
    return Stack(name, layers, count, frozenset(fixed), shared)


def _block(name: str, layer: nn.Module) -> Block | None:
    for layout in LAYOUTS:
        attention = _linears(layer, layout.attention)
        feed = _linears(layer, layout.feed)
        attended, fed = _linears(layer, (layout.attended,)), _linears(layer, (layout.fed,))
        if attention is None or feed is None or attended is None or fed is None:
            continue
        owner = layer.get_submodule(layout.owner)
        width = next((getattr(owner, each) for each in _WIDTHS if isinstance(getattr(owner, each, None), int)), None)
        if width is not None:
            return Block(name, layer, attention, attended[0], width, feed, fed[0])
    return None


def _linears(layer: nn.Module, names: Sequence[str]) -> tuple[nn.Linear, ...] | None:
    found = []
    for name in names:
        try:
            module = layer.get_submodule(name)
        except AttributeError:
            return None
        if not isinstance(module, nn.Linear):
            return None
        found.append(module)
    return tuple(found)


def _row(linear: nn.Linear) -> int:
    """Return the parameters of one output of a linear."""
    return linear.in_features + (linear.bias is not None)


def rows(linear: nn.Linear, keep: torch.Tensor) -> None:
    """Leave a linear with some of its outputs.

    Args:
        linear: changed in place.
        keep: bool [outputs].

    """
    linear.weight = nn.Parameter(linear.weight.detach()[keep].clone(), requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[keep].clone(), requires_grad=False)
    linear.out_features = int(keep.sum())


def columns(linear: nn.Linear, keep: torch.Tensor) -> None:
    """Leave a linear with some of its inputs.

    Args:
        linear: changed in place.
        keep: bool [inputs].

    """
    linear.weight = nn.Parameter(linear.weight.detach()[:, keep].clone(), requires_grad=False)
    linear.in_features = int(keep.sum())
