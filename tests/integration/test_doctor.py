"""The doctor on the default model: what the backends write fits the oldest runtime of every target that ships."""

from __future__ import annotations

import pytest

from edgellm.abi.examine import examine
from edgellm.runtime import Bundle

from .conftest import CPUS

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("target", CPUS)
def test_the_default_model_fits_every_cpu_target(demo_bundle: Bundle, target: str) -> None:
    result = examine(demo_bundle.path, target=target)
    assert [finding for finding in result.findings if finding.level != "ok"] == []
    assert [facts.kind for facts in result.facts] == ["executorch", "tflite", "onnx"]
