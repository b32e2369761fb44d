"""Core ML packages read without Core ML: facts, and faults planted in the graph, its shapes, its files and its bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.abi import errors
from edgellm.abi.coreml import examine_coreml
from edgellm.abi.coreml_package import read_package
from edgellm.abi.protobuf import Message
from edgellm.abi.reader import DamagedError
from edgellm.backends._coreml_package import write_package
from edgellm.backends._quiet import importing, quietly
from edgellm.errors import InputError
from edgellm.targets import load_target

IOS = dataclasses.replace(load_target("ios-arm64"), abi="ios-18.0")
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def written(path: Path, *, half: bool = True, single: bool = False, ranged: bool = False, ios: int = 18) -> Path:
    """Write a package of one linear; `single` plants an operator in 32-bit floats, `ranged` a range of shapes."""
    with importing():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb

    target = ct.target[f"iOS{ios}"]
    rows = ct.converters.mil.mil.get_new_symbol() if ranged else 4
    weight = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(rows, 64))], opset_version=target)  # type: ignore[misc]
    def program(x: Any) -> Any:
        y = mb.linear(x=x, weight=weight, name="product")
        return mb.exp(x=y, name="planted")

    chosen = (lambda op: op.op_type != "exp") if single else (lambda op: True)
    precision = ct.transform.FP16ComputePrecision(op_selector=chosen) if half else ct.precision.FLOAT32
    shape = (ct.RangeDim(1, 8, default=4), 64) if ranged else (4, 64)
    with quietly():
        model = ct.convert(
            program, convert_to="mlprogram", compute_precision=precision, minimum_deployment_target=target,
            inputs=[ct.TensorType(name="x", shape=shape)], skip_model_load=True,
        )  # fmt: skip
    write_package(model, path)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sound") / "m.mlpackage")


def test_facts_are_those_of_coremltools(sound: Path) -> None:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString((sound / SPECIFICATION).read_bytes())
    function = model.mlProgram.functions["main"]
    kinds = [each.type for each in function.block_specializations[function.opset].operations]
    package = read_package(sound)
    assert package.specification == model.specificationVersion == 9
    assert package.opset == function.opset
    assert sum(package.operators.values()) == len([kind for kind in kinds if kind != "const"])
    assert package.operators["linear"] == kinds.count("linear") == 1
    assert [each.name for each in package.inputs] == [each.name for each in model.description.input]
    assert package.inputs[0].shapes == ((4, 64),)
    assert ("linear", "float16", 4096, 8192) in {(w.reader, w.dtype, w.elements, w.bytes) for w in package.weights}
    facts, findings = examine_coreml(sound, "m", IOS)
    assert facts.values["operators"] == tuple(f"{k} x {n}" for k, n in sorted(package.operators.items()))
    assert not errors(findings)
    assert {each.rule for each in findings} == {"specification", "precision", "shapes"}


def rules(path: Path, target: Any = IOS) -> dict[str, str]:
    return {each.rule: each.message for each in errors(examine_coreml(path, "m", target)[1])}


def test_an_operator_in_single_precision_is_found(tmp_path: Path) -> None:
    found = rules(written(tmp_path / "one.mlpackage", single=True))
    assert "1 of 2 floating-point operators give float32 (exp " in found["precision"]
    assert "2 of 2" in rules(written(tmp_path / "all.mlpackage", half=False))["precision"]


def test_a_range_of_shapes_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "m.mlpackage", ranged=True)
    assert "the Neural Engine runs the default one alone" in rules(path)["shapes"]
    assert read_package(path).unknown_sizes == sum(read_package(path).operators.values())


def test_a_system_that_is_too_old_or_none_of_apples_is_found(sound: Path, tmp_path: Path) -> None:
    assert "needs iOS 18" in rules(sound, dataclasses.replace(IOS, abi="ios-17.4"))["specification"]
    assert "Core ML is Apple's" in rules(sound, load_target("android-arm64"))["specification"]
    older = written(tmp_path / "m.mlpackage", ios=17)
    assert not rules(older, dataclasses.replace(IOS, abi="ios-17.0"))


@pytest.mark.parametrize(
    "fault", ["no manifest", "no json", "outside", "no weights", "short weights", "no mark", "no program"]
)
def test_a_damaged_package_is_one_clear_line(sound: Path, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "m.mlpackage"
    shutil.copytree(sound, path)
    manifest, weights = path / "Manifest.json", path / WEIGHTS
    if fault == "no manifest":
        manifest.unlink()
    elif fault == "no json":
        manifest.write_text("{")
    elif fault == "outside":
        content = json.loads(manifest.read_text())
        content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = "../../etc/passwd"
        manifest.write_text(json.dumps(content))
    elif fault == "no weights":
        weights.unlink()
    elif fault == "short weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "no mark":
        weights.write_bytes(bytes(weights.stat().st_size))
    else:
        (path / SPECIFICATION).write_bytes(b"\x08\x09")
    with pytest.raises(InputError) as caught:
        read_package(path)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_the_specification_is_an_answer(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    shutil.copytree(sound, path)
    data = (path / SPECIFICATION).read_bytes()
    for length in range(1, len(data), 13):
        (path / SPECIFICATION).write_bytes(data[:length])
        with pytest.raises(InputError):
            read_package(path)
        flipped = bytearray(data)
        flipped[length] ^= 0x55
        (path / SPECIFICATION).write_bytes(flipped)
        with contextlib.suppress(InputError):
            read_package(path)


def test_messages_are_read_as_protobuf_writes_them() -> None:
    from coremltools.proto import FeatureTypes_pb2

    array = FeatureTypes_pb2.ArrayFeatureType(shape=[1, 300], dataType=131104)
    array.enumeratedShapes.shapes.add(shape=[1, 16])
    message = Message(memoryview(array.SerializeToString()))
    assert message.numbers(1) == (1, 300)
    assert message.number(2) == 131104
    assert [each.numbers(1) for each in message.message(21).messages(1)] == [(1, 16)]
    assert not message.has(31)
    for damaged in (b"\x0a\xff", b"\x08", b"\x08" + b"\xff" * 11, b"\x0b", b"\x0d\x01"):
        with pytest.raises(DamagedError):
            Message(memoryview(damaged))
    with pytest.raises(DamagedError, match="is a number"):
        message.text(2)
