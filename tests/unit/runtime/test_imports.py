"""What an import loads: the runtime needs numpy and tokenizers and nothing else, in a process of its own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import edgellm
import edgellm.runtime

HEAVY = {
    "ai_edge_litert", "click", "executorch", "hashlib", "importlib.metadata", "onnx", "onnxruntime", "rich",
    "safetensors", "sklearn", "torch", "torchao", "transformers", "huggingface_hub",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """Return all modules that a fresh interpreter has after `statement`, beside those that it starts with."""
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\nimport json\nprint(json.dumps(list(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def third_party(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"edgellm"}


def test_the_runtime_loads_numpy_and_tokenizers_and_nothing_else() -> None:
    modules = loaded_by("import edgellm.runtime")
    assert third_party(modules) <= {"numpy", "tokenizers"}
    assert not modules & HEAVY
    assert not [name for name in modules if name.startswith(("edgellm.stages", "edgellm.backends", "edgellm.cli"))]


def test_the_package_itself_loads_no_third_party_at_all() -> None:
    modules = loaded_by("import edgellm")
    assert third_party(modules) == set()
    assert not modules & HEAVY


@pytest.mark.parametrize("module", ["onnx", "tflite", "executorch"])
def test_an_engine_s_file_imports_no_engine(module: str) -> None:
    assert third_party(loaded_by(f"import edgellm.runtime.engines.{module}")) <= {"numpy", "tokenizers"}


@pytest.mark.parametrize("task", ["feature_extraction", "text_classification"])
def test_a_task_decodes_without_torch(task: str) -> None:
    assert third_party(loaded_by(f"import edgellm.tasks.{task}")) <= {"numpy"}


def test_the_command_line_plans_a_build_without_torch() -> None:
    modules = loaded_by("import edgellm.pipeline, edgellm.cli.main")
    assert not modules & {"torch", "transformers", "onnx", "onnxruntime", "executorch", "ai_edge_litert", "rich"}


@pytest.mark.parametrize("name", ["edgellm", "edgellm.runtime"])
def test_all_is_sorted_and_importable(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sesion'"):
        _ = edgellm.Sesion  # type: ignore[attr-defined]
