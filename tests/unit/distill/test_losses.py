"""Losses: each against its formula in plain numpy or a case worked out by hand; padding counts nowhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from torch import nn

from edgellm.core.training import IGNORED
from edgellm.distill import losses

B, T, W, L, H = 3, 5, 8, 4, 2
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 24), st.integers(1, 24))
def test_a_layer_map_is_even_and_holds_both_ends(student: int, teacher: int) -> None:
    chosen = losses.layer_map(student, teacher)
    assert len(chosen) == student + 1
    assert (chosen[0], chosen[-1]) == (0, teacher)
    assert list(chosen) == sorted(chosen)
    assert all(abs(g - m * teacher / student) <= 0.5 for m, g in enumerate(chosen))


@given(st.data())
def test_layers_that_are_kept_are_even_and_hold_both_ends(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 48))
    count = data.draw(st.integers(1, layers))
    kept = losses.spaced(count, layers)
    assert len(set(kept)) == count
    assert kept[0] == 0
    assert count == 1 or kept[-1] == layers - 1
    assert list(kept) == sorted(kept)
    assert all(abs(k - i * (layers - 1) / max(1, count - 1)) <= 0.5 for i, k in enumerate(kept))


def test_the_layers_that_distilbert_keeps() -> None:
    assert losses.spaced(3, 6) == (0, 3, 5)
    assert losses.spaced(6, 6) == tuple(range(6))
    assert losses.layer_map(3, 6) == (0, 2, 4, 6)
    assert losses.layer_map(4, 12) == (0, 3, 6, 9, 12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_labels_are_hinton_s(temperature: float) -> None:
    x, y = random(B, L), random(B, L, seed=1)
    p, log_q = softmax(y.numpy() / temperature, -1), log_softmax(x.numpy() / temperature, -1)
    wanted = temperature**2 * (p * (np.log(p) - log_q)).sum(-1).mean()
    assert float(losses.soft_labels(x, y, temperature=temperature)) == pytest.approx(wanted)


def test_soft_labels_of_several_labels_are_the_sum_of_their_own_divergences() -> None:
    x, y, t = random(B, L), random(B, L, seed=1), 2.0
    p, q = expit(y.numpy() / t), expit(x.numpy() / t)
    wanted = t**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    assert float(losses.soft_labels(x, y, temperature=t, scores="sigmoid")) == pytest.approx(wanted)


def test_soft_labels_keep_their_gradient_s_size_at_any_temperature() -> None:
    sizes = []
    for temperature in (20.0, 100.0):
        x = random(B, L).requires_grad_()
        losses.soft_labels(x, random(B, L, seed=1), temperature=temperature).backward()
        sizes.append(float(x.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "none"])
def test_answers_that_are_the_teacher_s_cost_nothing(scores: str) -> None:
    x = random(B, L).requires_grad_()
    loss = losses.soft_labels(x, x.detach() + (0 if scores != "softmax" else 3), temperature=2.0, scores=scores)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(x.grad.abs().max()) == pytest.approx(0, abs=1e-12)


def test_hard_labels_are_cross_entropy_with_smoothing() -> None:
    x, labels = random(B, L), torch.tensor([2, IGNORED, 0])
    log_q, smoothing = log_softmax(x.numpy(), -1), 0.1
    wanted = np.mean([-(1 - smoothing) * log_q[i, y] - smoothing * log_q[i].mean() for i, y in ((0, 2), (2, 0))])
    assert float(losses.hard_labels(x, labels, smoothing=smoothing)) == pytest.approx(wanted)


def test_hard_labels_of_several_labels_and_of_numbers_pass_over_what_is_not_labelled() -> None:
    x = random(B, L)
    labels = torch.tensor([[1.0, 0, 0, 1], [math.nan] * 4, [0.0, 0, 1, 0]], dtype=torch.float64)
    rows = [0, 2]
    q, y = expit(x.numpy())[rows], labels.numpy()[rows]
    wanted = -(y * np.log(q) + (1 - y) * np.log(1 - q)).sum(-1).mean()
    assert float(losses.hard_labels(x, labels, scores="sigmoid")) == pytest.approx(wanted)
    wanted = 0.5 * ((x.numpy()[rows] - y) ** 2).sum(-1).mean()
    assert float(losses.hard_labels(x, labels, scores="none")) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        (torch.full((B,), IGNORED), "softmax"),
        (torch.full((B, L), math.nan), "sigmoid"),
        (torch.full((B, L), math.nan), "none"),
    ],
)
def test_nothing_labelled_costs_nothing_and_is_a_number(labels: torch.Tensor, scores: str) -> None:
    x = random(B, L).requires_grad_()
    loss = losses.hard_labels(x, labels, scores=scores)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(x.grad.abs().max()) == 0


def test_hidden_states_by_distance_and_by_angle() -> None:
    x, y, m = random(B, T, W), random(B, T, W, seed=1), MASK.bool().numpy()
    a, b = x.numpy()[m], y.numpy()[m]
    assert float(losses.hidden_mse(x, y, MASK)) == pytest.approx(((a - b) ** 2).mean())
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert float(losses.hidden_cosine(x, y, MASK)) == pytest.approx((1 - cosines).mean())
    assert float(losses.hidden_cosine(5 * x, x, MASK)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("compare", [losses.hidden_mse, losses.hidden_cosine])
def test_a_projection_between_widths_is_learned(compare: object) -> None:
    torch.manual_seed(0)
    student, project = random(B, T, 6), nn.Linear(6, W, bias=False).double()
    teacher = student @ random(6, W, seed=3)
    optimizer = torch.optim.Adam(project.parameters(), 0.05)
    seen = []
    for _ in range(300):
        loss = compare(student, teacher, MASK, project)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.01 * seen[0]


def test_attention_maps_are_compared_by_rows() -> None:
    x, y = (torch.softmax(random(B, H, T, T, seed=seed), -1) for seed in (1, 2))
    wanted, count = 0.0, 0
    for text in range(B):
        tokens = int(MASK[text].sum())
        for row in range(tokens):
            apart = (x[text, :, row, :tokens] - y[text, :, row, :tokens]) ** 2
            wanted, count = wanted + float(apart.sum(-1).mean()), count + 1
    assert float(losses.attention_maps(x, y, MASK)) == pytest.approx(wanted / count)


@pytest.mark.parametrize(("width", "heads"), [(W, 2), (12, 4), (12, 1)])
def test_relations_are_minilm_s_whatever_the_widths(width: int, heads: int) -> None:
    student, teacher = (
        (random(B, T, width), random(B, T, width, seed=1)),
        (random(B, T, W, seed=2), random(B, T, W, seed=3)),
    )
    wanted, count = 0.0, 0
    for text in range(B):
        n = int(MASK[text].sum())
        divergences = np.zeros((heads, n))
        for head in range(heads):
            related = []
            for a, b in (student, teacher):
                d = a.shape[-1] // heads
                part = slice(head * d, (head + 1) * d)
                related.append(log_softmax((a[text, :n, part] @ b[text, :n, part].T).numpy() / d**0.5, -1))
            q, p = related
            divergences[head] = (np.exp(p) * (p - q)).sum(-1)
        wanted, count = wanted + divergences.mean(0).sum(), count + n
    assert float(losses.relations(student, teacher, MASK, heads)) == pytest.approx(wanted / count)


def test_relations_of_queries_and_keys_are_the_attention() -> None:
    q, k = random(B, T, W), random(B, T, W, seed=1)
    split = [item.reshape(B, T, H, W // H).transpose(1, 2) for item in (q, k)]
    maps = torch.softmax(split[0] @ split[1].transpose(-1, -2) / (W // H) ** 0.5, -1)
    other = torch.softmax(random(B, H, T, T, seed=4), -1)
    own = losses._related(q, k, torch.ones(B, T), H).exp()
    assert torch.allclose(own, maps)
    assert not torch.allclose(own, other)


def test_vectors() -> None:
    x, y = random(B, W), random(B, W, seed=1)
    a, b = x.numpy(), y.numpy()
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert float(losses.vector_cosine(x, y)) == pytest.approx((1 - cosines).mean())
    relative = ((a - b) ** 2).sum(-1).mean() / (b**2).sum(-1).mean()
    assert float(losses.vector_mse(x, y)) == pytest.approx(relative)
    assert float(losses.vector_mse(7 * x, 7 * y)) == pytest.approx(relative)
    turned = x @ torch.linalg.qr(random(W, W, seed=5))[0]
    assert float(losses.similarities(torch.cat((3 * turned, torch.zeros(B, 2)), -1), x)) == pytest.approx(0, abs=1e-12)
    assert float(losses.similarities(y, x)) > 0.01


@pytest.mark.parametrize("what", ["soft", "mse", "cosine", "maps", "relations", "vectors"])
@settings(max_examples=20, deadline=None)
@given(factor=st.sampled_from((1.0, 1e4, -1e4)))
def test_padding_counts_nowhere(what: str, factor: float) -> None:
    def loss(seed: int) -> tuple[float, torch.Tensor]:
        noise = factor * random(B, T, W, seed=seed) * (1 - MASK)[..., None]
        x = random(B, T, W).requires_grad_()
        student, teacher = x + noise, random(B, T, W, seed=1) - noise
        noise_of_keys = factor * random(B, H, T, T, seed=seed) * (1 - MASK)[:, None, None, :]
        rows, wanted = random(B, H, T, T, seed=6) * x.mean() + noise_of_keys, random(B, H, T, T, seed=7) - noise_of_keys
        given = {
            "soft": lambda: losses.soft_labels(student, teacher, temperature=2.0, mask=MASK),
            "mse": lambda: losses.hidden_mse(student, teacher, MASK),
            "cosine": lambda: losses.hidden_cosine(student, teacher, MASK),
            "maps": lambda: losses.attention_maps(rows, wanted, MASK),
            "relations": lambda: losses.relations((student, student), (teacher, teacher), MASK, H),
            "vectors": lambda: losses.vector_mse(student, teacher, MASK) + losses.vector_cosine(student, teacher, MASK),
        }[what]()
        given.backward()
        return float(given.detach()), x.grad

    (one, gradient), (other, again) = loss(8), loss(9)
    assert one == pytest.approx(other)
    assert torch.isfinite(gradient).all()
    assert torch.allclose(gradient, again)


def test_the_teacher_is_never_differentiated() -> None:
    x = random(B, T, W).requires_grad_()
    teacher = random(B, T, W, seed=1).requires_grad_()
    total = (
        losses.soft_labels(x, teacher, temperature=2.0)
        + losses.hidden_mse(x, teacher, MASK) + losses.hidden_cosine(x, teacher, MASK)
        + losses.relations((x, x), (teacher, teacher), MASK, H) + losses.vector_mse(x, teacher)
        + losses.vector_cosine(x, teacher) + losses.similarities(x[:, 0], teacher[:, 0])
    )  # fmt: skip
    total.backward()
    assert teacher.grad is None
    assert x.grad is not None


def test_half_precision_of_a_teacher_is_taken() -> None:
    x = random(B, T, W).float()
    for loss in (losses.hidden_mse(x, x.half(), MASK), losses.relations((x, x), (x.half(), x.half()), MASK, H)):
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(0, abs=1e-4)
