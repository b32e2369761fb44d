"""What a lowered graph takes and gives, the same for every format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[np.int64]]
"""Input name to int64 array of shape [1, tokens]."""

Outputs = Mapping[str, NDArray[np.float32]]
"""Output name to float32 array with a leading batch axis of 1."""

TOKENS = "tokens"
"""The symbolic length in a shape."""


@dataclass(frozen=True)
class InputSpec:
    """One input of shape [1, tokens].

    Attributes:
        name: `input_ids`, `attention_mask` or `token_type_ids`.
        dtype: what the artifact itself takes, "int64" or "int32"; callers always pass int64.
        shape: [1, "tokens"].
        bound: valid values are 0 <= value < bound.
        pad: value written where a text is shorter than the bucket.

    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bound: int
    pad: int

    def __post_init__(self) -> None:
        if self.name not in ("input_ids", "attention_mask", "token_type_ids"):
            raise ValueError(f"name: no input is called {self.name!r}")
        if self.dtype not in ("int64", "int32"):
            raise ValueError(f"dtype: {self.dtype!r} is none of int64, int32")
        if not 0 <= self.pad < self.bound <= 2**31:
            raise ValueError(f"pad: {self.pad} of {self.name} does not lie below its bound {self.bound}")


@dataclass(frozen=True)
class OutputSpec:
    """One output, float32, with a leading batch axis of 1."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and lengths of one artifact.

    Attributes:
        inputs: in the order in which the graph takes them.
        outputs: in the order in which the graph gives them.
        buckets: the token counts a static artifact was lowered for, ascending; empty if the length is dynamic.
        min_tokens: the shortest length a dynamic artifact takes; shorter texts are padded to it.

    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    buckets: tuple[int, ...] = ()
    min_tokens: int = 1

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError("inputs and outputs: at least one of each is needed")
        if list(self.buckets) != sorted(set(self.buckets)) or any(n < 1 for n in self.buckets):
            raise ValueError("buckets: lengths are positive and ascend")

    def tokens_for(self, tokens: int) -> int:
        """Return the length that a text of `tokens` tokens runs at: the smallest bucket that fits.

        Raises:
            ValueError: no bucket is long enough.

        """
        if not self.buckets:
            return max(tokens, self.min_tokens)
        for bucket in self.buckets:
            if tokens <= bucket:
                return bucket
        raise ValueError(f"{tokens} tokens do not fit the longest bucket of {self.buckets[-1]}")
