"""Tracing and module rewrites in torch: masks become finite, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm.backends import Prepared
from edgellm.backends._executorch_quantize import quantize_linears
from edgellm.backends.executorch import _LayerNorm, _restate_layer_norms
from edgellm.backends.observe import looked_up_by
from edgellm.backends.trace import MIN_TOKENS, clamp_constants, example, trace, trace_static
from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import InputSpec, OutputSpec
from edgellm.errors import EdgellmError
from edgellm.stages.attention import attention
from edgellm.stages.faithful import ensure_faithful
from edgellm.tasks import load_task

LOWEST = torch.finfo(torch.float32).min
INPUTS = (
    InputSpec("input_ids", "int64", (1, "tokens"), 20, 0),
    InputSpec("attention_mask", "int64", (1, "tokens"), 2, 0),
)


class Masked(nn.Module):
    """Attention of one head that masks in one of the ways of the Hub's models."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.how = how
        self.table = nn.Embedding(20, 8)
        self.register_buffer("lowest", torch.tensor(LOWEST), persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids)[0]
        scores = (x @ x.T).clamp(min=-1e9)  # a bound, no mask
        real = attention_mask == 1
        if self.how == "masked_fill":
            scores = scores.masked_fill(~real, LOWEST)
        elif self.how == "infinity":
            scores = scores.masked_fill(~real, float("-inf"))
        elif self.how == "where":
            scores = torch.where(real, scores, self.lowest)
        elif self.how == "mul":
            scores = scores + (1.0 - attention_mask.float()) * LOWEST
        elif self.how == "full":
            scores = scores + torch.full((1, 1), -1e9) * (1.0 - attention_mask.float())
        return torch.softmax(scores, -1) @ x


def prepared(module: nn.Module) -> Prepared:
    return Prepared(module.eval(), INPUTS, OutputSpec("embedding", "float32", (1, "tokens", 8)), (4, 16))


FEEDS = {
    "input_ids": torch.tensor([[3, 1, 4, 1, 5, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
}


@pytest.mark.parametrize("how", ["masked_fill", "infinity", "where", "mul", "full"])
def test_masks_become_finite_and_answers_stay(how: str) -> None:
    module = Masked(how).eval()
    program = trace(module, prepared(module))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(**FEEDS), module(**FEEDS), atol=1e-6, rtol=1e-6)
    scalars = [a for n in program.graph.nodes for a in n.args if isinstance(a, float) and "clamp" not in str(n.target)]
    assert all(value > -1e4 for value in scalars)
    constants = [t for t in program.constants.values() if isinstance(t, torch.Tensor)]
    used = {spec.target for spec in program.graph_signature.input_specs if spec.target in program.constants}
    assert all(bool((t >= -1e4).all()) for name, t in program.constants.items() if name in used), constants
    bounds = [a for n in program.graph.nodes if "clamp" in str(n.target) for a in n.args if isinstance(a, float)]
    assert -1e9 in bounds
    assert clamp_constants(program) == 0  # nothing is left to do


def test_assertions_about_the_text_leave_the_static_trace_and_answers_stay() -> None:
    class Asserting(Masked):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            longest = attention_mask.sum(1).max().item()
            torch._check(longest <= input_ids.shape[1])  # what torch.export makes of an assert
            return super().forward(input_ids, attention_mask)

    module = Asserting("masked_fill").eval()
    with torch.no_grad():
        whole = torch.export.export(module, (), kwargs=FEEDS, strict=False)
    assert "aten.item" in str(whole.graph)
    program = trace_static(module, FEEDS)
    assert not any(name in str(program.graph) for name in ("aten.item", "_assert_scalar", "operator."))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(**FEEDS), module(**FEEDS), atol=1e-6, rtol=1e-6)


def test_a_module_without_masks_is_not_touched() -> None:
    module = Masked("none").eval()
    with torch.no_grad():
        program = torch.export.export(module, (), kwargs=FEEDS, strict=False)
    program.constants.clear()  # the unused buffer
    assert clamp_constants(program) == 0


def test_a_trace_takes_every_length_and_has_seen_padding() -> None:
    module = Masked("masked_fill").eval()
    target = trace(module, prepared(module)).module()
    for tokens in (MIN_TOKENS, 16):
        ids, mask = torch.full((1, tokens), 3), torch.ones((1, tokens), dtype=torch.long)
        with torch.no_grad():
            torch.testing.assert_close(target(input_ids=ids, attention_mask=mask), module(ids, mask))
    feeds = example(prepared(module), 12)
    assert feeds["attention_mask"].sum() == 9
    assert int(feeds["input_ids"].max()) < 20


def test_a_table_that_is_computed_with_is_not_among_those_that_are_looked_up() -> None:
    class Relative(Vectors):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Embedding(64, 8)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = super().forward(input_ids, attention_mask) @ self.positions.weight.T
            return out

    module = Relative()
    assert looked_up_by(module, FEEDS) == {module.table}
    assert not module.table._forward_hooks


@pytest.mark.parametrize("affine", [True, False])
def test_the_restated_layer_norm_is_the_layer_norm(affine: bool) -> None:
    torch.manual_seed(3)
    norm = nn.LayerNorm(8, eps=1e-12, elementwise_affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(1, 5, 8) * 30 + 7
    torch.testing.assert_close(_LayerNorm(norm)(x), norm(x), atol=1e-4, rtol=1e-4)


def test_only_layer_norms_over_one_axis_are_restated() -> None:
    module = nn.Sequential(nn.LayerNorm(8), nn.LayerNorm((2, 8)), nn.Sequential(nn.LayerNorm(8)))
    _restate_layer_norms(module)
    assert [type(m).__name__ for m in module.modules()] == [
        "Sequential", "_LayerNorm", "LayerNorm", "Sequential", "_LayerNorm",
    ]  # fmt: skip


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_in_three_dimensions_is_scaled_dot_product_attention(key_heads: int, masked: bool) -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, n, 5, 8) for n in (4, key_heads, key_heads))
    mask = torch.tensor([0.0, 0.0, 0.0, -30.0, -30.0]).expand(1, 1, 5) if masked else None
    ours, weights = attention(nn.Identity(), query, key, value, mask)
    repeated = (t.repeat_interleave(4 // key_heads, dim=1) for t in (key, value))
    expected = nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask)
    torch.testing.assert_close(ours, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert weights is None


def test_a_mask_that_the_model_made_itself_is_made_finite() -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    mask = torch.tensor([0.0, 0.0, 0.0, LOWEST, LOWEST]).reshape(1, 1, 1, 5)
    ours, _ = attention(nn.Identity(), query, key, value, mask)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(ours, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
    nothing, _ = attention(nn.Identity(), query, key, value, torch.full((1, 1, 1, 5), LOWEST))
    assert bool(torch.isfinite(nothing).all())


def test_a_position_bias_is_added_to_the_scores() -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    bias, mask = torch.randn(1, 2, 5, 5), torch.tensor([0.0, 0.0, 0.0, 0.0, -30.0]).expand(1, 1, 5)
    ours, _ = attention(nn.Identity(), query, key, value, mask, scaling=1.0, position_bias=bias)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias + mask, scale=1.0)
    torch.testing.assert_close(ours, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("extra", [{"sinks": torch.zeros(1)}, {"softcap": 30.0}])
def test_attention_that_ours_does_not_compute_is_refused(extra: dict[str, object]) -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(NotImplementedError, match=r"sinks|softcap"):
        attention(nn.Identity(), q, q, q, None, **extra)


class Vectors(nn.Module):
    """An encoder that is a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(20, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_pooling_sees_real_tokens_only(pooling: str, normalize: bool) -> None:
    vectors = Vectors()
    task = load_task("feature-extraction")
    hidden = vectors.table(FEEDS["input_ids"])[0, :5]
    expected = {"mean": hidden.mean(0), "cls": hidden[0], "none": hidden}[pooling]
    if normalize and pooling != "none":
        expected = nn.functional.normalize(expected, dim=0)
    wrapped = task.wrap(vectors, TaskOptions(pooling=pooling, normalize=normalize))
    got = wrapped(**FEEDS)[0]
    torch.testing.assert_close(got[:5] if pooling == "none" else got, expected)


class Shifted(Vectors):
    """Differs from Vectors in one way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out = super().forward(input_ids, attention_mask).mean(1)
        if self.fault == "off by a thousandth":
            return out * 1.001
        if self.fault == "not a number":
            return out * float("nan")
        real = attention_mask[..., None].float()
        return (super().forward(input_ids, attention_mask) * real).sum(1) / real.sum(1)


FIVE = [{name: tensor[:, :5].numpy() for name, tensor in FEEDS.items()}]


@pytest.mark.parametrize("fault", ["off by a thousandth", "not a number"])
def test_a_prepared_module_that_computes_something_else_is_refused(fault: str) -> None:
    right = Shifted("none")
    assert ensure_faithful(right, right, FIVE).rewritten < 1e-6
    with pytest.raises(EdgellmError, match="a rewrite does not fit"):
        ensure_faithful(right, Shifted(fault), FIVE)


def test_a_prepared_module_that_looks_at_padding_is_refused() -> None:
    class Careless(Vectors):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return super().forward(input_ids, attention_mask).mean(1)

    with pytest.raises(EdgellmError, match="a rewrite does not fit"):
        ensure_faithful(Shifted("none"), Careless(), FIVE)
    ensure_faithful(Shifted("none"), Careless(), FIVE, longest=5)  # where there is no room to pad, nothing pads


def test_a_source_that_looks_at_padding_is_not_blamed_on_a_rewrite() -> None:
    class Mixing(Vectors):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return super().forward(input_ids, attention_mask).mean(1)

    found = ensure_faithful(Mixing(), Mixing(), FIVE)
    assert found.rewritten < 1e-6
    assert found.padding > 0.1
    assert found.looks_at_padding
    with pytest.raises(EdgellmError, match="a rewrite does not fit"):
        ensure_faithful(Mixing(), Shifted("none"), FIVE)
    masked = ensure_faithful(Shifted("none"), Shifted("none"), FIVE)
    assert masked.padding < 1e-6
    assert not masked.looks_at_padding
    assert ensure_faithful(Mixing(), Mixing(), FIVE, longest=5).padding == 0


def test_linears_that_torchao_leaves_alone_stay_so() -> None:
    """The projection behind nn.MultiheadAttention is called without its forward, and would fail."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.out = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.out(self.attend(x, x, x, need_weights=False)[0])
            return answer

    module = Attending().eval().requires_grad_(False)
    x = torch.randn(1, 5, 32)
    expected = module(x)
    quantize_linears(module, set())
    assert type(module.out.weight) is not nn.Parameter
    assert float((module(x) - expected).abs().max()) < 0.05


def test_a_number_next_to_zero_is_measured_against_those_that_are_not() -> None:
    class Number(Vectors):
        def __init__(self, noise: float) -> None:
            super().__init__()
            self.noise = noise

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            some = (input_ids[:, :1] != 3).float()  # 0 for a text that begins with 3, else 1
            return some + self.noise

    zero = [{name: array.copy() for name, array in feeds.items()} for feeds in FIVE]
    zero[0]["input_ids"][:, 0] = 3
    one = [{name: array.copy() for name, array in feeds.items()} for feeds in FIVE]
    one[0]["input_ids"][:, 0] = 4
    assert ensure_faithful(Number(0.0), Number(1e-6), [*zero, *one]).rewritten < 1e-5
    with pytest.raises(EdgellmError, match="a rewrite does not fit"):
        ensure_faithful(Number(0.0), Number(1e-3), [*zero, *one])
