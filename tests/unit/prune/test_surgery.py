"""Surgery: what was cut is the whole model with those gates at 0, and what an architecture can't lose is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgellm.errors import InputError
from edgellm.prune import surgery
from edgellm.prune.blocks import find
from edgellm.prune.choose import Kept, remaining
from tests.unit.prune.tiny import ids, output, tiny

CUT_ANYWHERE = ("bert", "distilbert", "roberta", "electra", "ctc", "ctc-shared", "albert")


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def some(kind: str, *, layers: bool) -> tuple[Any, Kept]:
    """Return a tiny model's encoder, and a choice that takes other parts of each layer."""
    encoder = find(tiny(kind))
    kept = Kept.everything(encoder.shapes())
    draw = np.random.default_rng(1)
    for heads, neurons in zip(kept.heads, kept.neurons, strict=True):
        heads[draw.choice(heads.size, draw.integers(1, heads.size), replace=False)] = False
        neurons[draw.choice(neurons.size, 8 * draw.integers(1, 4), replace=False)] = False
    if layers:
        kept.layers[1] = False
    return encoder, kept


@pytest.mark.parametrize("kind", CUT_ANYWHERE)
def test_what_was_cut_is_the_model_with_its_gates_closed(kind: str) -> None:
    encoder, kept = some(kind, layers=kind not in ("albert", "ctc-shared"))
    model, shapes = encoder.model, encoder.shapes()
    runs = [lambda: output(model), lambda: output(model, ids(5, rows=1, tokens=4))]
    whole = [run() for run in runs]
    expected = surgery.masked(encoder, kept, runs)
    before = count(model)
    assert all(surgery.apart(a, b) > 1e-3 for a, b in zip(whole, expected, strict=True)), "nothing was masked"
    lost = sum(shape.parameters for shape in shapes) - remaining(shapes, kept)
    surgery.cut(encoder, kept)
    assert all(surgery.apart(a, run()) < 1e-5 for a, run in zip(expected, runs, strict=True))
    assert before - count(model) == lost


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "ctc"])
def test_a_checkpoint_that_was_cut_loads_as_any_other(kind: str, tmp_path: Path) -> None:
    from edgellm.stages.load import _pruned, shapes

    encoder, kept = some(kind, layers=True)
    model = encoder.model
    surgery.cut(encoder, kept)
    expected = output(model)
    model.save_pretrained(tmp_path)
    cls = type(model)
    again = _pruned(cls, shapes(str(tmp_path))).from_pretrained(
        tmp_path, config=cls.config_class.from_pretrained(tmp_path)
    )
    assert torch.equal(output(again.eval()), expected)
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert stored == count(model)


@pytest.mark.parametrize(
    ("kind", "removable", "left"),
    [("ctc", [True, True, True, True, False, False], (3, 2, [1])), ("ctc-flat", [True, False, False], (2, 0, [1]))],
)
def test_the_layers_that_are_heard_are_numbered_anew(
    kind: str, removable: list[bool], left: tuple[int, int, list[int]]
) -> None:
    encoder = find(tiny(kind))
    assert [shape.removable for shape in encoder.shapes()] == removable
    kept = Kept.everything(encoder.shapes())
    kept.layers[len(removable) - 3] = False
    expected = surgery.masked(encoder, kept, [lambda: output(encoder.model)])[0]
    surgery.cut(encoder, kept)
    config = encoder.model.config
    assert (config.num_hidden_layers, config.num_slot_layers, config.conditioned_layers) == left
    assert config.supervised_layers == ([1] if kind == "ctc-flat" else [])
    assert surgery.apart(expected, output(encoder.model)) < 1e-5


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("bert", ()), ("distilbert", ()), ("roberta", ()), ("electra", ()), ("ctc", ()), ("albert", ("layers",)),
        ("ctc-shared", ("layers",)), ("mpnet", ("heads",)), ("t5", ("heads",)), ("t5-gated", ("heads",)),
    ],
)  # fmt: skip
def test_what_an_architecture_can_lose_is_tried(kind: str, refused: tuple[str, ...]) -> None:
    model = tiny(kind)
    encoder = find(model)
    before = output(model)
    reasons = surgery.probe(encoder, ("heads", "ffn", "layers"), lambda: output(model))
    assert tuple(reasons) == refused
    assert all(reasons.values())
    assert torch.equal(output(model), before), "the trial left something behind"


def test_the_table_of_distances_stays() -> None:
    assert [shape.removable for shape in find(tiny("t5")).shapes()] == [False, True, True]


def test_a_trial_notices_code_that_computes_something_else() -> None:
    model = tiny("bert")
    encoder = find(model)
    scale = encoder.blocks[0].attention[0]

    def stubborn(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        return out * (2.0 if scale.out_features < 32 else 1.0)

    scale.register_forward_hook(stubborn)
    reasons = surgery.probe(encoder, ("heads",), lambda: output(model))
    assert reasons == {"heads": "what is left computes something else"}


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(InputError, match="DebertaV2Model has no layers that edgellm knows how to prune"):
        find(tiny("deberta"))


def test_multiply_accumulates_are_those_of_the_matrices() -> None:
    model = tiny("bert")
    width, ffn, layers, tokens, labels = 32, 40, 3, 16, 2
    linears = tokens * layers * (4 * width * width + 2 * width * ffn)
    attention = layers * 2 * tokens * tokens * width
    assert surgery.multiply_accumulates(model, tokens) == linears + attention + width * width + width * labels
    assert model.config._attn_implementation == "sdpa"
