"""ExecuTorch programs against targets: schema, delegates and kernels, in files by the real exporter and made by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

from edgellm.abi import FileFacts, Finding
from edgellm.abi.artifacts import examine_artifact
from edgellm.abi.executorch import examine_executorch, kernels
from edgellm.core.target import Target
from edgellm.targets import load_target
from tests.unit.abi.files import pte_bytes

PI = load_target("raspberry-pi-4")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def problems(path: Path, target: Target = PI) -> dict[str, Finding]:
    return {f.rule: f for f in examine_artifact(path, "executorch", target) if f.level != "ok"}


def test_the_kernels_are_what_the_installed_libraries_register() -> None:
    spec = importlib.util.find_spec("executorch")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    found: set[str] = set()
    for name in ("libexecutorch.so", "libexecutorch_kernels_optimized.so", "libexecutorch_kernels_quantized.so"):
        names = re.findall(
            rb"(?<![\x20-\x7e])((?:aten|dim_order_ops|et_copy|executorch_prim|quantized_decomposed)::[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)?)(?=\0)",
            (folder / name).read_bytes(),
        )
        found |= {name.decode() for name in names}
    assert found == kernels()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that the real exporter wrote."""
    import torch
    from executorch.exir import to_edge

    class Add(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(x) + x

    program = to_edge(torch.export.export(Add(), (torch.zeros(1, 4),))).to_executorch()
    return write(tmp_path_factory.mktemp("pte") / "add.pte", program.buffer)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_real_program_is_read(exported: Path) -> None:
    facts, findings = examine_executorch(exported, "add.pte", PI)
    assert facts == FileFacts(
        "add.pte", "executorch",
        {"identifier": "ET12", "schema": 0, "methods": ("forward",), "delegates": (),
         "kernels": ("aten::add.out", "aten::gelu.out")},
    )  # fmt: skip
    assert {f.level for f in findings} == {"ok"}


@pytest.mark.filterwarnings("ignore")
def test_a_real_program_that_is_cut_off_is_damaged(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    assert "is no sound ExecuTorch program" in problems(write(tmp_path / "a.pte", data[:-200]))["readable"].message


def test_a_sound_program_has_no_finding(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pte", pte_bytes(delegates=("XnnpackBackend", "XnnpackBackend")))
    assert problems(path) == {}
    assert examine_executorch(path, "m.pte", PI)[0].values["delegates"] == ("XnnpackBackend x 2",)


def test_a_newer_schema_is_an_error(tmp_path: Path) -> None:
    assert "schema version 1;" in problems(write(tmp_path / "m.pte", pte_bytes(schema=1)))["schema"].message


def test_another_identifier_is_an_error_that_says_which(tmp_path: Path) -> None:
    problem = problems(write(tmp_path / "m.pte", pte_bytes(identifier=b"ET13")))["schema"]
    assert problem.message == "identifier ET13; ExecuTorch 1.5, the oldest that raspberry-pi-4 allows, reads ET12."


def test_another_delegate_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pte", pte_bytes(delegates=("XnnpackBackend", "VulkanBackend")))
    assert problems(path)["delegate"].message.startswith(
        "needs VulkanBackend, and the delegate of raspberry-pi-4 is xnnpack"
    )
    vulkan = dataclasses.replace(PI, delegates={**PI.delegates, "executorch": "vulkan"})
    assert problems(path, vulkan)["delegate"].message.startswith("needs XnnpackBackend,")


@pytest.mark.parametrize("operator", [("llama::sdpa", "out"), ("aten::fft_rfft", "out"), ("aten::add", "nonsense")])
def test_an_operator_without_a_kernel_is_named(tmp_path: Path, operator: tuple[str, str]) -> None:
    problem = problems(write(tmp_path / "m.pte", pte_bytes([("aten::add", "out"), operator])))["operators"]
    assert problem.message.endswith(f"a kernel for {'.'.join(operator)}.")


def test_an_older_runtime_is_unknown(tmp_path: Path) -> None:
    older = dataclasses.replace(PI, runtimes={"executorch": ">=0.6"})
    assert problems(write(tmp_path / "m.pte", pte_bytes()), older)["schema"].level == "warning"
