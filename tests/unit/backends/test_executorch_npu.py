"""ExecuTorch programs for Core ML and Vulkan: one partition, the same bytes twice, and what is inside the partition."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from edgellm.abi.executorch import examine_executorch
from edgellm.abi.vulkan import VulkanGraph, read_graph
from edgellm.backends import MIN_TOKENS, Lowered, executorch_coreml, executorch_vulkan
from edgellm.core.delegation import Delegation
from edgellm.core.precision import Precisions
from edgellm.errors import EdgellmError, InputError, UsageError
from tests.unit.backends.tiny_bert import ANDROID, IOS, WIDTH, Refused, of, tiny_bert

TABLES = WIDTH * (300 + 64 + 2)


def shared(lowered: Lowered) -> Delegation:
    assert lowered.delegation is not None
    return lowered.delegation


def delegates(path: Path) -> object:
    return examine_executorch(path, path.name, None)[0].values["delegates"]


@pytest.mark.parametrize(("scheme", "width"), [("fp16", 2.0), ("int8-weight-only", 1.0)])
def test_core_ml_takes_the_whole_graph(scheme: str, width: float, tmp_path: Path) -> None:
    lowered = executorch_coreml.lower(tiny_bert(8, 16), Precisions(scheme), IOS, tmp_path)
    delegation = shared(lowered)
    assert (delegation.partitions, delegation.outside, delegation.share_of_cost) == (1, 0, 1)
    assert lowered.signature.buckets == (8, 16)
    assert {each.dtype for each in lowered.signature.inputs} == {"int32"}
    assert delegates(tmp_path / lowered.file) == ("CoreMLBackend x 1",)
    tables = next(each.bytes for each in lowered.contents if each.kind == "embedding tables")
    assert (
        width * TABLES <= tables <= width * TABLES * 1.05 + 600
    )  # with a scale per row, and one small table in 16 bits


def test_core_mls_program_is_the_same_twice(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lowered = executorch_coreml.lower(tiny_bert(8), Precisions("fp16"), IOS, tmp_path / name)
        files.append((tmp_path / name / lowered.file).read_bytes())
    assert files[0] == files[1]


def test_the_flattened_folder_is_what_the_delegate_reads(tmp_path: Path) -> None:
    from executorch.backends.apple.coreml import executorchcoreml

    folder = tmp_path / "written" / "lowered_module"
    (folder / "b" / "c").mkdir(parents=True)
    (folder / "a").write_bytes(b"first")
    (folder / "b" / "c" / "d").write_bytes(bytes(300))
    (folder / "b" / "empty").touch()
    (tmp_path / "read").mkdir()
    executorchcoreml.unflatten_directory_contents(executorch_coreml.flattened(folder), str(tmp_path / "read"))
    read = tmp_path / "read" / "lowered_module"
    found = {path.relative_to(read).as_posix(): path.read_bytes() for path in read.rglob("*") if path.is_file()}
    assert found == {"a": b"first", "b/c/d": bytes(300), "b/empty": b""}


def test_where_core_ml_lacks_an_operator_one_length_is_left_and_the_operator_outside(tmp_path: Path) -> None:
    prepared = tiny_bert(8, 16, then=Refused())
    lowered = executorch_coreml.lower(prepared, Precisions("fp16"), IOS, tmp_path)
    delegation = shared(lowered)
    assert lowered.signature.buckets == (16,)
    assert "does not support the op aten.erfinv.default" in lowered.notes[0]
    assert "padded to 16 tokens" in lowered.notes[0]
    assert [(each.operator, each.heavy) for each in delegation.fallbacks] == [("aten.erfinv", False)]
    assert "no translation" in delegation.fallbacks[0].cause


def test_vulkan_takes_the_whole_graph_at_any_length(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lowered = executorch_vulkan.lower(tiny_bert(8, 16), Precisions("fp16"), ANDROID, tmp_path / name)
        delegation = shared(lowered)
        files.append((tmp_path / name / lowered.file).read_bytes())
    assert files[0] == files[1]
    assert (delegation.partitions, delegation.outside, delegation.share_of_cost) == (1, 0, 1)
    assert lowered.signature.buckets == ()
    assert lowered.signature.min_tokens == MIN_TOKENS
    assert delegates(tmp_path / "a" / lowered.file) == ("VulkanBackend x 1",)
    tables = next(each.bytes for each in lowered.contents if each.kind == "embedding tables")
    assert tables == 2 * TABLES
    assert len(files[0]) < 4 * sum(parameter.numel() for parameter in tiny_bert(8).module.parameters())


def test_vulkan_reads_int8_weights_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[VulkanGraph] = []
    monkeypatch.setattr(executorch_vulkan, "ensure_precision", lambda found, scheme: graphs.extend(found))
    lowered = executorch_vulkan.lower(tiny_bert(8, 16), Precisions("int8-weight-only"), ANDROID, tmp_path)
    assert graphs[0].operators["aten._weight_int8pack_mm.default"] == 6
    assert graphs[0].tensors["int8"] == 6
    assert "float32" not in graphs[0].tensors
    weights = next(each.bytes for each in lowered.contents if each.kind == "matmul weights")
    assert weights == 4 * WIDTH * WIDTH + 2 * WIDTH * 128


def test_planted_faults_of_vulkans_graph_are_found() -> None:
    packed = Counter({"aten._weight_int8pack_mm.default": 6})
    sound = VulkanGraph(packed, {"float16": 9, "int8": 6})
    executorch_vulkan.ensure_precision([sound], "int8-weight-only")
    with pytest.raises(EdgellmError, match="not what fp16 says: 2 tensors are float32"):
        executorch_vulkan.ensure_precision([sound, VulkanGraph(packed, {"float32": 2})], "fp16")
    unpacking = Counter({"torchao.dequantize_affine.default": 1})
    with pytest.raises(EdgellmError, match=r"unpacked on every call, by torchao.dequantize_affine"):
        executorch_vulkan.ensure_precision([VulkanGraph(unpacking, {})], "int8-weight-only")
    with pytest.raises(EdgellmError, match="no operator reads int8 weights"):
        executorch_vulkan.ensure_precision([VulkanGraph(Counter(), {})], "int8-weight-only")
    for bytes_ in (b"", b"\0" * 40, b"\0\0\0\0VH00" + bytes([30, 0]) + (30).to_bytes(4, "little") * 2 + bytes(60)):
        with pytest.raises(InputError, match="Vulkan graph"):
            read_graph(bytes_)


def test_what_vulkan_lacks_is_outside_with_its_cause(tmp_path: Path) -> None:
    lowered = executorch_vulkan.lower(tiny_bert(8, then=Refused()), Precisions("fp16"), ANDROID, tmp_path)
    delegation = shared(lowered)
    assert [(each.operator, each.cause) for each in delegation.fallbacks] == [
        ("aten.erfinv", "Vulkan's partitioner says: no operator implementation")
    ]
    assert delegation.outside == 1


def test_targets_and_schemes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vulkan can't express int8-dynamic"):
        executorch_vulkan.lower(tiny_bert(8), Precisions("int8-dynamic"), ANDROID, tmp_path)
    with pytest.raises(UsageError, match="is for Android, and the abi of"):
        executorch_vulkan.lower(tiny_bert(8), Precisions("fp16"), IOS, tmp_path)
    with pytest.raises(UsageError, match="for iOS 17 and newer"):
        executorch_coreml.lower(tiny_bert(8), Precisions("fp16"), of(IOS, abi="ios-16.0"), tmp_path)
