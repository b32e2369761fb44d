"""Core ML packages: the same bytes twice, 16-bit floats, the scheme's weights; and faults that the reading back finds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgellm.abi.coreml_package import Feature, Package, Weight, read_package
from edgellm.backends import Lowered
from edgellm.backends._coreml_evaluate import evaluate
from edgellm.backends._coreml_package import ensure_package, served
from edgellm.backends.mlpackage import NOT_RUN, ensure_interface, lower
from edgellm.core.precision import Precisions
from edgellm.errors import EdgellmError, InputError, UsageError
from tests.unit.backends.tiny_bert import ANDROID, IOS, WIDTH, Refused, of, tiny_bert

BUCKETS = (8, 16)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lowered]:
    folder = tmp_path_factory.mktemp("fp16")
    return folder, lower(tiny_bert(*BUCKETS), Precisions("fp16"), IOS, folder)


@pytest.fixture(scope="module")
def package(half: tuple[Path, Lowered]) -> Package:
    return read_package((half[0] / half[1].file).parent)


def test_the_package_takes_every_bucket_and_computes_in_half_precision(
    half: tuple[Path, Lowered], package: Package
) -> None:
    lowered = half[1]
    assert lowered.file == "model-fp16.mlpackage/Manifest.json"
    assert {path.relative_to(half[0]).as_posix() for path in half[0].rglob("*") if path.is_file()} == set(lowered.files)
    assert [each.dtype for each in lowered.signature.inputs] == ["int32"] * 3
    assert lowered.signature.buckets == BUCKETS
    assert lowered.delegation is None
    assert lowered.notes == (NOT_RUN,)
    assert package.specification == 9
    assert {each.name: set(each.shapes) for each in package.inputs} == {
        name: {(1, 8), (1, 16)} for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    assert package.outputs == (Feature("embedding", "float32", ((1, WIDTH),)),)
    assert not package.float32
    assert package.operators["linear"] == 6
    assert {each.dtype for each in package.weights if each.elements > 64} == {"float16"}
    assert sum(each.bytes for each in lowered.contents) == sum(map(len, contents(half[0]).values()))
    tables = next(each.bytes for each in lowered.contents if each.kind == "embedding tables")
    assert tables == 2 * WIDTH * (300 + 64 + 2)


def test_the_same_model_gives_the_same_bytes(half: tuple[Path, Lowered], tmp_path: Path) -> None:
    lower(tiny_bert(*BUCKETS), Precisions("fp16"), IOS, tmp_path)
    assert contents(tmp_path) == contents(half[0])


def test_coremltools_reads_what_was_written(half: tuple[Path, Lowered]) -> None:
    import coremltools as ct

    model = ct.models.MLModel(str((half[0] / half[1].file).parent), skip_model_load=True)
    spec = model.get_spec()
    assert [each.name for each in spec.description.output] == ["embedding"]
    assert "com.github.apple.coremltools.conversion_date" not in spec.description.metadata.userDefined


def test_weights_become_int8_and_the_rest_stays(tmp_path: Path, package: Package) -> None:
    lowered = lower(tiny_bert(*BUCKETS), Precisions("int8-weight-only"), IOS, tmp_path)
    quantized = read_package((tmp_path / lowered.file).parent)
    assert quantized.results["float16"] == package.results["float16"]
    large = {each.dtype for each in quantized.weights if each.elements >= 2048}
    assert large == {"int8"}
    assert quantized.stored()["int8"] < 0.6 * package.stored()["float16"]


def test_below_ios_18_there_is_one_shape_and_a_note(tmp_path: Path) -> None:
    target = of(IOS, abi="ios-17.0")
    lowered = lower(tiny_bert(*BUCKETS), Precisions("fp16"), target, tmp_path)
    assert lowered.signature.buckets == (16,)
    assert "padded to 16 tokens" in lowered.notes[0]
    found = read_package((tmp_path / lowered.file).parent)
    assert found.specification == 8
    assert found.inputs[0].shapes == ((1, 16),)
    assert found.unknown_sizes == 0
    assert served(tiny_bert(16), 17) == ((16,), ())


def test_what_the_target_or_scheme_rules_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"coreml can't express fp32.*Use --scheme fp16 or int8-weight-only"):
        lower(tiny_bert(8), Precisions("fp32"), IOS, tmp_path)
    for target in (ANDROID, of(IOS, abi="ios-15.0")):
        with pytest.raises(UsageError, match="for iOS 17 and newer, and the abi of"):
            lower(tiny_bert(8), Precisions("fp16"), target, tmp_path)


def test_an_operator_that_core_ml_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"Core ML can't express aten.erfinv, which .* uses.*Other formats may"):
        lower(tiny_bert(8, then=Refused()), Precisions("fp16"), IOS, tmp_path)


def test_planted_faults_of_precision_are_found(package: Package) -> None:
    ensure_package(package, "fp16")
    with pytest.raises(EdgellmError, match=r"1 of \d+ floating-point operators give float32 \(linear x\)"):
        ensure_package(dataclasses.replace(package, float32=("linear x",)), "fp16")
    with pytest.raises(EdgellmError, match="matrices or tables are no int8, the largest with 19200 weights as float16"):
        ensure_package(package, "int8-weight-only")
    single = (*package.weights, Weight("linear", "float32", 4096, 16384))
    with pytest.raises(EdgellmError, match="1 matrices or tables are no float16"):
        ensure_package(dataclasses.replace(package, weights=single), "fp16")


def test_planted_faults_of_the_interface_are_found(package: Package) -> None:
    prepared = tiny_bert(*BUCKETS)
    ensure_interface(package, prepared, BUCKETS)
    first = package.inputs[0]
    for fault in (
        dataclasses.replace(first, dtype="float32"),
        dataclasses.replace(first, name="ids"),
        dataclasses.replace(first, shapes=((1, 16),)),
        dataclasses.replace(first, ranged=True),
    ):
        with pytest.raises(EdgellmError, match="takes other inputs than its signature says"):
            ensure_interface(dataclasses.replace(package, inputs=(fault, *package.inputs[1:])), prepared, BUCKETS)
    outputs = (dataclasses.replace(package.outputs[0], dtype="float16"),)
    with pytest.raises(EdgellmError, match="where embedding in float32 is expected"):
        ensure_interface(dataclasses.replace(package, outputs=outputs), prepared, BUCKETS)


@pytest.mark.parametrize(("scheme", "least"), [("fp16", 0.99999), ("int8-weight-only", 0.999)])
def test_the_file_computes_what_the_module_does(scheme: str, least: float, tmp_path: Path) -> None:
    prepared = tiny_bert(*BUCKETS)
    lowered = lower(prepared, Precisions(scheme), IOS, tmp_path)
    for tokens, real in ((8, 5), (16, 16)):
        feeds = {
            "input_ids": np.arange(7, 7 + tokens, dtype=np.int32)[None],
            "attention_mask": (np.arange(tokens) < real).astype(np.int32)[None],
            "token_type_ids": np.zeros((1, tokens), np.int32),
        }
        found = evaluate((tmp_path / lowered.file).parent, feeds)["embedding"]
        expected = prepared.module(**{name: torch.from_numpy(item).long() for name, item in feeds.items()}).numpy()
        assert float((found * expected).sum() / np.linalg.norm(found)) > least
        other = evaluate((tmp_path / lowered.file).parent, {**feeds, "input_ids": feeds["input_ids"] + 50})["embedding"]
        assert float((other * expected).sum() / np.linalg.norm(other)) < least
