"""Ethos-U: the restated graph gives the same answers, wide variances included; what stays on the CPU fails the build."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from edgellm.backends._ethos_u_graph import restate
from edgellm.backends.tflite_ethos_u import ensure_on_npu
from edgellm.core.npu import Accelerator, CpuOperator, NpuReport
from edgellm.errors import GateError

REPORT = NpuReport(
    "Vela 5.2.0", Accelerator.of("ethos-u85-512"), 1, 380,
    (CpuOperator("EMBEDDING_LOOKUP", "a", "Unsupported opType"), CpuOperator("QUANTIZE", "b", "Float32")),
    1, 2, 3, 4, 5, 1000.0, 9.1,
)  # fmt: skip


class Encoder(nn.Module):
    """What an encoder has that is restated."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.norm = nn.LayerNorm(32)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(nn.functional.gelu(self.norm(self.table(input_ids))))
        mask = attention_mask.to(torch.bool).to(torch.float32)
        vector = torch.bmm(mask.unsqueeze(1), hidden).squeeze(1) / mask.sum(1, keepdim=True)
        return vector * torch.rsqrt((vector * vector).sum(1, keepdim=True).clamp(min=1e-24))


@pytest.fixture(scope="module")
def encoder() -> tuple[Encoder, torch.fx.GraphModule, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    module = Encoder().eval()
    with torch.no_grad():
        module.table.weight[7] *= 300  # one token with a variance of 90 000 times the usual one
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.int32)
    feeds = {"input_ids": torch.tensor([[3, 7, 9, 2, 4, 0]], dtype=torch.int32), "attention_mask": mask}
    return module, torch.export.export(module, (), kwargs=feeds, strict=False).module(), feeds


def test_a_restated_graph_gives_the_same(
    encoder: tuple[Encoder, torch.fx.GraphModule, dict[str, torch.Tensor]],
) -> None:
    module, graph, feeds = encoder
    other = restate(graph, [feeds])
    assert torch.allclose(other(**feeds), module(**feeds), atol=2e-4)  # GELU's tanh form is that far from GELU


def test_a_restated_graph_has_nothing_that_ethos_u55_lacks(
    encoder: tuple[Encoder, torch.fx.GraphModule, dict[str, torch.Tensor]],
) -> None:
    _, graph, feeds = encoder
    other = restate(graph, [feeds])
    assert isinstance(other, torch.fx.GraphModule)
    names = {str(node.target) for node in other.graph.nodes}
    assert not names & {"aten.layer_norm.default", "aten.gelu.default", "aten.div.Tensor", "aten.clamp.default"}
    assert not any(torch.bool in node.args for node in other.graph.nodes if node.op == "call_function")


def test_squares_of_a_restated_layer_norm_lie_within_16_bits(
    encoder: tuple[Encoder, torch.fx.GraphModule, dict[str, torch.Tensor]],
) -> None:
    _, graph, feeds = encoder
    other = restate(graph, [feeds])
    roots = []

    class Watching(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            if str(n.target) == "aten.rsqrt.default":
                roots.append(self.env[n.args[0]].flatten())
            return super().run_node(n)

    with torch.no_grad():
        Watching(other).run(*feeds.values())
    first, second = roots[:2]
    assert float(first.max() / first.min()) > 1000
    assert float(second.max() / second.min()) < 10  # the table that an NPU interpolates has 512 parts


def test_what_looks_ids_up_may_stay_on_the_cpu() -> None:
    ensure_on_npu(REPORT)


def test_anything_else_on_the_cpu_fails_the_build() -> None:
    odd = dataclasses.replace(
        REPORT, cpu_operators=(*REPORT.cpu_operators, CpuOperator("CUMSUM", "c", "Unsupported opType"))
    )
    with pytest.raises(GateError, match=r"does not take 1 of 383 operators.*CUMSUM: Unsupported opType"):
        ensure_on_npu(odd)
    ensure_on_npu(odd, allowed=("CUMSUM", "EMBEDDING_LOOKUP", "QUANTIZE"))


def test_an_npu_that_runs_nothing_fails_the_build() -> None:
    with pytest.raises(GateError, match="all would run on the CPU"):
        ensure_on_npu(dataclasses.replace(REPORT, partitions=0))
