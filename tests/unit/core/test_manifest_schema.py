"""manifest.schema.json and the dataclasses say the same: the schema is for other programs, the reader for ours."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import typing
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgellm.core import agreement, delegation, evaluation, manifest, npu, signature, strict
from edgellm.core.evaluation import Drop, Evaluation, Flip
from edgellm.core.manifest import SCHEMA_VERSION, Manifest
from edgellm.errors import BundleError
from edgellm.runtime.bundle import Bundle
from tests.tiny import tiny_bundle

SCHEMA: dict[str, Any] = json.loads(resources.files("edgellm.core").joinpath("manifest.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
CLASSES = {
    name: cls
    for module in (agreement, delegation, evaluation, manifest, npu, signature)
    for name, cls in vars(module).items()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type)
}


EVALUATION = Evaluation(
    "accuracy", 10, 0.9, 0.8, metrics={"accuracy": (0.9, 0.8), "macro-F1": (0.88, 0.7)}, drop=Drop(10.0, 0.0, 30.0),
    flipped=1, flipped_share=0.1, mcnemar_p=1.0, flips=(Flip("It hums.", "good", "good", "bad"),),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("schema") / "bundle", others=("tflite",)).path


@pytest.fixture(scope="module")
def valid(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return data


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["Manifest"]["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


@pytest.mark.parametrize("name", CLASSES)
def test_a_definition_has_the_fields_of_its_dataclass(name: str) -> None:
    definition, fields = SCHEMA["$defs"][name], dataclasses.fields(CLASSES[name])
    assert definition["additionalProperties"] is False
    assert list(definition["properties"]) == [f.name for f in fields]
    missing = dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    assert definition.get("required", []) == required


def test_definitions_refer_to_the_dataclass_of_the_field() -> None:
    for name, cls in CLASSES.items():
        for field, kind in typing.get_type_hints(cls).items():
            inner = {c.__name__ for c in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(c)}
            stated = json.dumps(SCHEMA["$defs"][name]["properties"][field])
            assert all(f'"#/$defs/{each}"' in stated for each in inner), (name, field)


def test_a_valid_manifest_passes_both(valid: dict[str, Any]) -> None:
    evaluated = copy.deepcopy(valid)
    evaluated["artifacts"][0]["evaluation"] = strict.plain(EVALUATION)
    for data in (valid, evaluated):
        VALIDATOR.validate(data)
        assert strict.plain(strict.read(Manifest, data, "m")) == data


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = to

    return change


def _drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]

    return change


PLAIN: dict[str, Any] = dict(strict.plain(EVALUATION))  # type: ignore[call-overload]
MUTATIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another schema version": _set("schema_version", to=2),
    "schema version as text": _set("schema_version", to="1"),
    "schema version true": _set("schema_version", to=True),
    "no schema version": _drop("schema_version"),
    "unknown key": _set("signature", to="00"),
    "unknown key of a file": _set("files", 0, "mode", to=511),
    "unknown key of an artifact": _set("artifacts", 0, "url", to="http://x"),
    "unknown task option": _set("task_options", "code", to="print()"),
    "no task": _drop("task"),
    "no evaluation metric": _set("artifacts", 0, "evaluation", to={k: v for k, v in PLAIN.items() if k != "metric"}),
    "a metric with one score": _set("artifacts", 0, "evaluation", to={**PLAIN, "metrics": {"accuracy": [0.9]}}),
    "a metric with three scores": _set("artifacts", 0, "evaluation", to={**PLAIN, "metrics": {"accuracy": [1, 1, 1]}}),
    "a drop as number": _set("artifacts", 0, "evaluation", to={**PLAIN, "drop": 0.1}),
    "a flip without a label": _set("artifacts", 0, "evaluation", to={**PLAIN, "flips": [{"input": "It hums."}]}),
    "McNemar's p as text": _set("artifacts", 0, "evaluation", to={**PLAIN, "mcnemar_p": "1"}),
    "no licence": _drop("model", "licence"),
    "null name": _set("model", "name", to=None),
    "labels as text": _set("task_options", "labels", to="negative"),
    "number as label": _set("task_options", "labels", to=[1]),
    "normalize as number": _set("task_options", "normalize", to=1),
    "max_tokens as float": _set("max_tokens", to=32.5),
    "max_tokens true": _set("max_tokens", to=True),
    "min_agreement as text": _set("min_agreement", to="0.99"),
    "number as tool version": _set("tools", "onnx", to=1.23),
    "files as table": _set("files", to={}),
    "no digest": _drop("files", 0, "sha256"),
    "null digest": _set("files", 0, "sha256", to=None),
    "no artifacts": _set("artifacts", to=[]),
    "artifacts null": _set("artifacts", to=None),
    "path that climbs": _set("files", 0, "path", to="../x"),
    "path that climbs inside": _set("files", 0, "path", to="a/../../x"),
    "absolute path": _set("files", 0, "path", to="/etc/passwd"),
    "backslash": _set("files", 0, "path", to="a\\b"),
    "drive": _set("files", 0, "path", to="C:x"),
    "NUL": _set("files", 0, "path", to="a\0b"),
    "empty path": _set("files", 0, "path", to=""),
    "path of the folder": _set("files", 0, "path", to="."),
    "path with an empty part": _set("files", 0, "path", to="a//b"),
    "path with a dot part": _set("files", 0, "path", to="./README.md"),
    "trailing slash": _set("files", 0, "path", to="a/"),
    "the manifest itself": _set("files", 0, "path", to="manifest.json"),
    "artifact that climbs": _set("artifacts", 0, "file", to="../model.onnx"),
    "session options as list": _set("artifacts", 0, "session_options", to=[]),
    "number as session option": _set("artifacts", 0, "session_options", to={"threads": 1}),
    "partitions as text": _set("artifacts", 0, "delegation", "partitions", to="1"),
    "a fallback without a cause": _drop("artifacts", 0, "delegation", "fallbacks", 0, "cause"),
    "a reference that climbs": _set("artifacts", 0, "reference", to="../x"),
    "null in a shape": _set("artifacts", 0, "signature", "inputs", 0, "shape", to=[1, None]),
    "bucket as text": _set("artifacts", 0, "signature", "buckets", to=["16"]),
    "no inputs": _drop("artifacts", 0, "signature", "inputs"),
    "matrix row as number": _set("matrix", "values", to=[1.0]),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_manifest_is_refused_by_both(name: str, folder: Path, valid: dict[str, Any], tmp_path: Path) -> None:
    data = copy.deepcopy(valid)
    MUTATIONS[name](data)
    assert not VALIDATOR.is_valid(data)
    copied = shutil.copytree(folder, tmp_path / "bundle")
    (copied / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError):
        Bundle.open(copied)
