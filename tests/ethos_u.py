"""`python -m tests.ethos_u OPERATOR`: lower a small model with one odd operator for Ethos-U85, and print the error.

In a process of its own, as converters print and warn. Operators: plain (none), narrow (none, and the linear has 8-bit
activations), cumsum, erfinv.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from edgellm.backends import Prepared
from edgellm.backends.calibrate import ranges_of
from edgellm.core.precision import Precisions
from edgellm.core.signature import TOKENS, InputSpec, OutputSpec
from edgellm.core.target import EthosU
from edgellm.errors import EdgellmError, to_wire
from edgellm.toolchain import vela
from tests.figures.ethos_u import cosine, run

ODD = {
    "plain": lambda x: x,
    "narrow": lambda x: x,
    "cumsum": lambda x: torch.cumsum(x, dim=1),
    "erfinv": lambda x: torch.erfinv(torch.tanh(x) * 0.5),
}
TEXT_TOKENS = 16


class Small(nn.Module):
    """An embedding, an odd operator, a LayerNorm, GELU and the mean over tokens."""

    def __init__(self, odd: str) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.linear = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        self.odd = ODD[odd]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.to(torch.float32)
        hidden = torch.nn.functional.gelu(self.norm(self.odd(self.linear(self.table(input_ids)))))
        return torch.bmm(mask.unsqueeze(1), hidden).squeeze(1) / mask.sum(1, keepdim=True)


def main(odd: str, accelerator: str) -> dict[str, Any]:
    """Return the report, or the error."""
    from edgellm.backends.tflite_ethos_u import lower

    torch.manual_seed(5)
    vela.setup()
    inputs = tuple(
        InputSpec(name, "int64", (1, TOKENS), bound, 0) for name, bound in (("input_ids", 50), ("attention_mask", 2))
    )
    output = OutputSpec("embedding", "float32", (1, 32))
    samples = [
        {"input_ids": torch.randint(1, 50, (1, n)), "attention_mask": torch.ones(1, n, dtype=torch.int64)}
        for n in (3, 9, 16)
    ]
    prepared = Prepared(Small(odd).eval(), inputs, output, (TEXT_TOKENS,), samples=samples)
    target: Any = SimpleNamespace(npu=EthosU(accelerator))
    with tempfile.TemporaryDirectory() as folder:
        try:
            layers = (("linear", "int8-static"),) if odd == "narrow" else ()
            reads, _ = ranges_of(copy.deepcopy(prepared.module), samples, method="mse", wanted=lambda name: True)[
                "linear"
            ]
            expected = [prepared.module(**sample).detach().numpy().ravel() for sample in samples]
            made = lower(prepared, Precisions("a16w8", layers), target, Path(folder))
        except EdgellmError as error:
            return to_wire(error)
        assert made.npu is not None
        files = sorted(path.name for path in Path(folder).iterdir())
        reference = Path(folder) / str(made.reference)
        got = run(
            reference, prepared, [{key: value.numpy() for key, value in each.items()} for each in samples], TEXT_TOKENS
        )
        agreement = min(cosine(a, b) for a, b in zip(expected, got, strict=True))
        linears = _linears(reference, reads.scale)
    return {"files": files, "cpu": [item.operator for item in made.npu.cpu_operators], "reference": made.reference,
            "partitions": made.npu.partitions, "buckets": made.signature.buckets, "agreement": agreement,
            "linears": linears}  # fmt: skip


def _linears(path: Path, chosen: float) -> list[dict[str, Any]]:
    """Return of each linear of a file the bytes of a number that it reads and writes, the scale of what it reads as a part of
    the one that was chosen, and whether its bias has the scale of its products.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    graph, sizes = model.subgraphs[0], {schema.TensorType.INT8: 1, schema.TensorType.INT16: 2}
    found = []
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        read, weight, bias = (graph.tensors[index] for index in operator.inputs)
        scales = [np.asarray(each.quantization.scale) for each in (read, weight, bias)]
        written = graph.tensors[operator.outputs[0]]
        found.append({
            "bytes": [sizes[read.type], sizes[written.type]], "read": float(scales[0][0]) / chosen,
            "bias": bool(np.allclose(scales[0] * scales[1], scales[2], rtol=1e-4)),
        })  # fmt: skip
    return found


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        found = main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "ethos-u85-512")
    print(json.dumps(found))
