"""The gate's first question: does the target's oldest runtime read the file at all?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgellm.core.target import OnnxLevel
from edgellm.errors import GateError
from edgellm.runtime import Bundle
from edgellm.stages import gate
from edgellm.stages.cache import Cache
from edgellm.targets import load_target


def ensure_fit(bundle: Bundle, target: Any, store: Cache) -> None:
    gate._ensure_fit(SimpleNamespace(target=target), bundle.manifest, store, bundle.path)  # type: ignore[arg-type]


def test_an_artifact_that_the_target_can_t_read_is_refused_before_it_runs(
    embedder: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Cache(tmp_path / "cache")
    target = load_target("raspberry-pi-4")
    ensure_fit(embedder, target, store)
    old = dataclasses.replace(target, onnx=OnnxLevel(8, 18))
    for _ in range(2):  # the second time from the cache, without looking
        with pytest.raises(GateError, match=r"model.*\.onnx does not fit raspberry-pi-4: .*IR version"):
            ensure_fit(embedder, old, store)
        monkeypatch.setattr(gate, "examine_artifact", lambda *rest: pytest.fail("looked again"))
    ensure_fit(embedder, target, store)
