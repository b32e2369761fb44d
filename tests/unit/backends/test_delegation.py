"""What each delegate leaves, and the cause that its own partitioner gives; and what operators cost."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgellm.backends._cost import program_cost
from edgellm.backends._delegation import survey
from edgellm.backends._delegation_onnx import survey_onnx
from edgellm.backends._delegation_tflite import inside, survey_tflite
from edgellm.backends._quiet import importing, quietly
from tests.tiny import TinyModel
from tests.unit.backends.tiny_bert import Refused

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Mixed(nn.Module):
    """A linear that delegates take, an operator that they don't, and a linear in a type that they don't."""

    def __init__(self, *, double: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.refused = Refused()
        self.double = double
        if double:
            self.second = self.second.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.refused(self.first(x))
        out: torch.Tensor = self.second(x.double() if self.double else x)
        return out.float()


def exported(module: nn.Module, *, dynamic: bool = False) -> ExportedProgram:
    shapes = {"x": {0: Dim("rows", min=4, max=32)}} if dynamic else None
    return torch.export.export(module.eval(), (torch.randn(6, 8),), dynamic_shapes=shapes, strict=False)


def lowered(module: nn.Module, delegate: str) -> ExportedProgram:
    with importing():
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        partitioner: Any
        if delegate == "xnnpack":
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

            partitioner = XnnpackPartitioner()
        elif delegate == "vulkan":
            from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

            partitioner = VulkanPartitioner()
        else:
            from executorch.backends.apple.coreml.partition import CoreMLPartitioner

            partitioner = CoreMLPartitioner()
    with quietly(), torch.no_grad():
        edge = to_edge_transform_and_lower(
            exported(module), partitioner=[partitioner], compile_config=EdgeCompileConfig(_check_ir_validity=False)
        )
    program: ExportedProgram = edge.exported_program()
    return program


CAUSES = {
    "coreml": "coremltools 9.0 has no translation of it",
    "vulkan": "Vulkan's partitioner says: no operator implementation",
    "xnnpack": "XNNPACK's partitioner does not know it",
}


@pytest.mark.parametrize("delegate", sorted(CAUSES))
def test_an_operator_that_a_delegate_lacks_is_outside_with_its_cause(delegate: str) -> None:
    found = survey(lowered(Mixed(double=False), delegate), delegate, 6)
    assert found.delegate == delegate
    assert found.partitions == 2
    assert [(each.operator, each.count, each.cause, each.heavy) for each in found.fallbacks] == [
        ("aten.erfinv", 1, CAUSES[delegate], False)
    ]
    assert found.cost_inside == 6 * (8 * 16 + 16 * 4)
    assert found.share_of_cost == 1
    assert found.heavy == ()


@pytest.mark.parametrize(
    ("delegate", "cause"),
    [("vulkan", "dtype torch.float64 not in"), ("xnnpack", "XNNPACK's partitioner says: invalid dtype")],
)
def test_a_linear_outside_is_heavy_and_costs_its_share(delegate: str, cause: str) -> None:
    found = survey(lowered(Mixed(double=True), delegate), delegate, 6)
    assert len(found.heavy) == 1
    heavy = found.heavy[0]
    assert heavy.operator in ("aten.addmm", "aten.linear")
    assert cause in heavy.cause
    assert heavy.cost == 6 * 16 * 4
    assert found.fallback_share == pytest.approx(1 / 3)
    assert found.fallbacks[0] == heavy  # the most expensive first


def test_a_delegate_of_which_nothing_is_known_still_has_its_share() -> None:
    found = survey(lowered(Mixed(double=False), "xnnpack"), "qnn", 6)
    assert found.fallbacks[0].cause == "qnn did not take it"


def test_costs_are_multiply_accumulates_at_the_length_that_was_asked_for() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.convolution = nn.Linear(8, 16), nn.Conv1d(1, 3, 5, padding=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = torch.bmm(x[None], x[None].transpose(1, 2)).sum()
            attended = nn.functional.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None])
            convolved: torch.Tensor = self.convolution(x[:, None, :]).sum()
            return self.linear(x) + scores + attended.sum() + convolved

    program = exported(Products(), dynamic=True)
    for rows in (6, 32):
        linear, bmm, attention, convolution = rows * 8 * 16, rows * 8 * rows, 2 * rows * rows * 8, rows * 8 * 3 * 5
        assert program_cost(program, rows) == linear + bmm + attention + convolution
    decomposed = program.run_decompositions()
    assert program_cost(decomposed, 32) == pytest.approx(program_cost(program, 32), rel=0.01)


def test_operators_between_the_ends_of_a_partition_are_inside_it() -> None:
    def operator(reads: list[int], writes: list[int]) -> dict[str, Any]:
        return {"inputs": np.array(reads), "outputs": np.array(writes)}

    # 0 -> a -> 1 -> b -> 2 -> c -> 3 -> d -> 4, and e from 1 to 5; the partition reads 1 and writes 3.
    chain = [operator([0], [1]), operator([1, 9], [2]), operator([2], [3]), operator([3], [4]), operator([1], [5])]
    assert inside(chain, [operator([1, 9], [3])]) == {1, 2}
    assert inside(chain, [operator([1, 9], [3]), operator([3], [4])]) == {1, 2, 3}
    assert inside(chain, []) == set()


def test_what_tflite_leaves_is_read_from_the_interpreter(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        import litert_torch

        class Sorted(nn.Module):
            """A product that XNNPACK takes, and a running sum that it doesn't."""

            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(8, 16)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.cumsum(self.linear(x), 1)

        path = tmp_path / "m.tflite"
        litert_torch.convert(Sorted().eval(), (torch.randn(4, 8),)).export(str(path))
    found = survey_tflite(path)
    assert found.delegate == "xnnpack"
    assert "CUMSUM" in {each.operator for each in found.fallbacks}
    assert found.cost_inside == 4 * 8 * 16
    assert not found.heavy
    assert found.partitions == 1


def test_onnx_on_the_cpu_has_everything_inside(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(TinyModel.random(8, 4, 3, True).onnx("logits"))
    found = survey_onnx(path, 12.0)
    assert (found.delegate, found.outside, found.cost_inside, found.share_of_cost) == ("cpu", 0, 12.0, 1.0)
    assert found.inside > 0
