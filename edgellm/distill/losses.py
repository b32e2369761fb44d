"""Losses of distillation: how far a student is from its teacher, and from people's labels. Pure torch.

In the shapes, B is the texts of a batch, T their tokens, L labels, H heads. A mask [B, T] is 1 for tokens and 0 for padding,
which counts nowhere. Each loss is a scalar of the student's dtype, and 0 where nothing counts. The teacher's side is never
differentiated.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgellm.core.training import IGNORED


def layer_map(student: int, teacher: int) -> tuple[int, ...]:
    """Return which of the teacher's hidden states each of the student's is compared with, evenly spaced.

    State 0 is the embeddings' and state n that of the n-th layer, so embeddings are compared with embeddings and the last
    with the last: g(m) = m N / M (TinyBERT, Jiao et al. 2020, section 3.1), rounded half up where M does not divide N.

    Args:
        student: M, its layers.
        teacher: N, its layers.

    """
    return tuple((2 * m * teacher + student) // (2 * student) for m in range(student + 1))


def spaced(count: int, layers: int) -> tuple[int, ...]:
    """Return `count` of `layers` layers, counted from 0 and evenly spaced, with the first and the last (DistilBERT).

    One layer alone is the first: it is the one that reads embeddings.
    """
    if count == 1:
        return (0,)
    return tuple((2 * i * (layers - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def soft_labels(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float, scores: str = "softmax",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return T^2 KL(p(teacher / T) || p(student / T)), the mean over texts, or over tokens where there is a mask.

    The square keeps gradients of one size whatever the temperature (Hinton, Vinyals and Dean 2015, section 2). Where each
    label holds or does not, it is the sum of the labels' own divergences; where the output is a number, half of the squared
    distance, to which the temperature does nothing.

    Args:
        student: logits [..., L].
        teacher: logits [..., L].
        temperature: T.
        scores: "softmax" (one label), "sigmoid" (any labels) or "none" (numbers).
        mask: of [..., L] without the last axis.

    """
    wanted = teacher.detach().to(student.dtype)
    if scores == "softmax":
        log_p, log_q = F.log_softmax(wanted / temperature, -1), F.log_softmax(student / temperature, -1)
        apart = (log_p.exp() * (log_p - log_q)).sum(-1) * temperature**2
    elif scores == "sigmoid":
        p, x, y = torch.sigmoid(wanted / temperature), student / temperature, wanted / temperature
        given = F.binary_cross_entropy_with_logits(x, p, reduction="none")
        least = F.binary_cross_entropy_with_logits(y, p, reduction="none")
        apart = (given - least).sum(-1) * temperature**2
    else:
        apart = 0.5 * (student - wanted).square().sum(-1)
    return _mean(apart, mask)


def hard_labels(
    student: torch.Tensor, labels: torch.Tensor, *, smoothing: float = 0.0, scores: str = "softmax"
) -> torch.Tensor:
    """Return the loss of people's labels: cross-entropy, binary cross-entropy summed over labels, or half a squared distance.

    Smoothing gives each other label an even share of `smoothing` (Szegedy et al. 2016, section 7).

    Args:
        student: logits [..., L].
        labels: int64 [...] where `scores` is "softmax", IGNORED for what is not learned; else float [..., L], NaN for that.
        smoothing: of cross-entropy, from 0 to below 1.
        scores: as `soft_labels` takes it.

    """
    if scores == "softmax":
        flat, wanted = student.reshape(-1, student.shape[-1]), labels.reshape(-1)
        if not bool((wanted != IGNORED).any()):  # torch's mean over nothing is no number
            return student.sum() * 0.0
        return F.cross_entropy(flat, wanted, ignore_index=IGNORED, label_smoothing=smoothing)
    known = torch.isfinite(labels)
    wanted = torch.where(known, labels, 0.0).to(student.dtype)
    if scores == "sigmoid":
        apart = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    else:
        apart = 0.5 * (student - wanted).square()
    return _mean((apart * known).sum(-1), known.any(-1))


def hidden_mse(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, project: nn.Module | None = None
) -> torch.Tensor:
    """Return the mean squared distance of hidden states, MSE(student W, teacher) (TinyBERT, equation 8).

    Args:
        student: [B, T, width].
        teacher: [B, T, its width].
        mask: [B, T].
        project: W, learned, from the student's width to the teacher's; None where they are the same.

    """
    x = student if project is None else project(student)
    return _mean((x - teacher.detach().to(x.dtype)).square().mean(-1), mask)


def hidden_cosine(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, project: nn.Module | None = None
) -> torch.Tensor:
    """Return 1 - cosine of hidden states, the mean over tokens (DistilBERT, Sanh et al. 2019, section 3).

    Unlike the squared distance it has no scale, so that no layer and no outlying channel outweighs the others.
    """
    x = student if project is None else project(student)
    return _mean(1 - F.cosine_similarity(x, teacher.detach().to(x.dtype), dim=-1), mask)


def attention_maps(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of attention probabilities, over heads and pairs of tokens.

    TinyBERT (equation 7) compares what goes into the softmax; transformers gives what comes out. The sum over a row's keys is
    kept, not their mean: a probability gets smaller the longer the text is.

    Args:
        student: [B, H, T, T].
        teacher: [B, H, T, T], of as many heads.
        mask: [B, T].

    """
    apart = (student - teacher.detach().to(student.dtype)).square() * mask[:, None, None, :]
    return _mean(apart.sum(-1).mean(1), mask)


def relations(
    student: tuple[torch.Tensor, torch.Tensor], teacher: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, heads: int
) -> torch.Tensor:  # fmt: skip
    """Return KL(teacher || student) of how tokens relate, the mean over relation heads and tokens.

    A relation is softmax(a b^T / sqrt(width / heads)) for each of `heads` even parts of the width. Of queries and keys, with
    as many parts as heads, it is the attention itself, and of values with values the value relation (MiniLM, Wang et al.
    2020, equations 6 to 9). Neither widths nor attention heads have to be the same on both sides (MiniLMv2, Wang et al.
    2021, section 3.1), only the parts.

    Args:
        student: two of its queries, keys and values [B, T, width], widths that `heads` divides.
        teacher: the same two of the teacher's [B, T, its width].
        mask: [B, T].
        heads: parts.

    """
    log_q = _related(student[0], student[1], mask, heads)
    with torch.no_grad():
        log_p = _related(teacher[0].to(log_q.dtype), teacher[1].to(log_q.dtype), mask, heads)
    # Where both are 0, at padding, both logarithms are the same large number.
    return _mean((log_p.exp() * (log_p - log_q)).sum(-1).mean(1), mask)


def vector_cosine(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return 1 - cosine of vectors [..., width] of the same width, the mean over texts, or tokens where there is a mask."""
    return _mean(1 - F.cosine_similarity(student, teacher.detach().to(student.dtype), dim=-1), mask)


def vector_mse(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the squared distance of vectors [..., width], relative to the teacher's mean squared length.

    Relative, because the vectors of one encoder have unit length and those of another any (the loss itself is that of
    Reimers and Gurevych 2020, equation 1).
    """
    wanted = teacher.detach().to(student.dtype)
    scale = _mean(wanted.square().sum(-1), mask).clamp(min=1e-12)
    return _mean((student - wanted).square().sum(-1), mask) / scale


def similarities(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of the cosine similarities within a batch; widths may differ.

    Similarity-preserving distillation (Tung and Mori 2019): what a vector is compared for is kept, whatever its axes.

    Args:
        student: [B, width].
        teacher: [B, its width].

    """
    x, y = F.normalize(student, dim=-1), F.normalize(teacher.detach().to(student.dtype), dim=-1)
    return (x @ x.T - y @ y.T).square().mean()


def _related(left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the logarithms of a relation [B, heads, T, T]."""
    texts, tokens, width = left.shape
    a, b = (item.reshape(texts, tokens, heads, width // heads).transpose(1, 2) for item in (left, right))
    scores = a @ b.transpose(-1, -2) / (width // heads) ** 0.5
    lowest = torch.finfo(scores.dtype).min / 4  # so that differences stay finite
    return F.log_softmax(scores.masked_fill(mask[:, None, None, :] == 0, lowest), dim=-1)


def _mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)
