"""Equalization: exact in fp32, worth its while where a channel sticks out, and absent where it is not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, torch
from torch import nn
from edgellm.stages import equalize as module
from edgellm.stages.equalize import INVERSE, equalize

class Model(nn.Module):
    def __init__(self, outlier, twice=False):
        super().__init__()
        torch.manual_seed(5)
        self.query, self.key, self.out = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.gain = torch.ones(32)
        self.gain[7] = outlier
        self.twice = twice

    def forward(self, x):
        x = x * self.gain
        y = self.query(x) + self.key(x)
        if self.twice:
            y = y + self.key(y)
        return self.out(y)

def change(outlier, twice=False):
    model = Model(outlier, twice).eval()
    feeds = [{"x": torch.randn(1, n, 32)} for n in range(4, 40)]
    with torch.no_grad():
        before = [model(**item) for item in feeds]
        gain = equalize(model, feeds)
        after = [model(**item) for item in feeds]
    exact = max(float(((a - b).abs().max() / b.abs().max())) for a, b in zip(after, before))
    names = [name for name, module in model.named_modules() if hasattr(module, INVERSE)]
    shared = hasattr(model.query, INVERSE) and getattr(model.query, INVERSE) is getattr(model.key, INVERSE)
    return {"count": gain.places, "error": gain.error, "exact": exact, "names": names, "shared": shared}

class Odd(nn.Module):
    # Aliases, tied weights, a weight that is read directly, a call by keyword.

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b, self.c, self.d = (nn.Linear(32, 32) for _ in range(4))
        self.alias = self.a
        self.b.weight = self.a.weight
        self.gain = torch.ones(32)
        self.gain[7] = 60.0

    def forward(self, x):
        x = x * self.gain
        y = self.a(x) + self.b(x * 0.5)
        y = y + self.alias(x) + self.d(input=x)
        return self.c(y) + nn.functional.linear(y * 0, self.c.weight)

def odd():
    model = Odd().eval()
    feeds = [{"x": torch.randn(1, n, 32)} for n in range(4, 40)]
    with torch.no_grad():
        before = [model(**item) for item in feeds]
        equalize(model, feeds)
        after = [model(**item) for item in feeds]
    names = sorted(name for name, module in model.named_modules() if hasattr(module, INVERSE))
    return {"names": names, "exact": max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before))}

class Tied(nn.Module):
    # A head that is the embedding table.

    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(5)
        self.table, self.inner, self.head = nn.Embedding(50, 32), nn.Linear(32, 32), nn.Linear(32, 50)
        if tied:
            self.head.weight = self.table.weight
        self.gain = torch.ones(32)
        self.gain[7] = 60.0

    def forward(self, x):
        return self.head(self.inner(self.table(x) * self.gain) * self.gain)

def tied(really):
    model = Tied(really).eval()
    equalize(model, [{"x": torch.arange(n).unsqueeze(0)} for n in range(4, 40)])
    names = [name for name, module in model.named_modules() if hasattr(module, INVERSE)]
    return {"names": names, "same": model.head.weight is model.table.weight}

def with_a_text_that_keeps(part):
    module.WORST = part
    found = equalize(Model(60.0).eval(), [{"x": torch.randn(1, n, 32)} for n in range(4, 40)]).places
    return found

print(json.dumps([change(1.0), change(60.0), change(60.0, twice=True), odd(), tied(False), tied(True),
                  with_a_text_that_keeps(1.0), with_a_text_that_keeps(1e-6)]))
"""


@pytest.fixture(scope="module")
def changes() -> list[dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    answer: list[dict[str, object]] = json.loads(done.stdout)
    return answer


def test_even_channels_are_left_alone(changes: list[dict[str, object]]) -> None:
    assert (changes[0]["count"], changes[0]["names"]) == (0, [])


def test_linears_that_read_one_tensor_are_scaled_alike_and_fp32_stays(changes: list[dict[str, object]]) -> None:
    assert changes[1]["names"] == ["query", "key"]
    assert changes[1]["shared"]
    assert changes[1]["exact"] < 1e-6  # type: ignore[operator]
    assert (changes[0]["error"], changes[1]["count"]) == (1.0, 1)
    assert changes[1]["error"] < 0.35  # type: ignore[operator]


def test_a_linear_with_changing_companions_is_left_alone(changes: list[dict[str, object]]) -> None:
    assert changes[2]["names"] == []


def test_aliases_tied_weights_and_calls_by_keyword_stay_exact(changes: list[dict[str, object]]) -> None:
    assert set(changes[3]["names"]) >= {"a", "b"}  # type: ignore[call-overload]
    assert "d" not in changes[3]["names"]  # type: ignore[operator]
    assert changes[3]["exact"] < 1e-6  # type: ignore[operator]


def test_a_head_that_is_the_embedding_table_stays_that(changes: list[dict[str, object]]) -> None:
    assert changes[4] == {"names": ["inner", "head"], "same": False}
    assert changes[5] == {"names": ["inner"], "same": True}


def test_a_place_where_one_text_would_keep_its_error_stays_as_it_is(changes: list[object]) -> None:
    assert changes[6:] == [1, 0]
