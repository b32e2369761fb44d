"""Targets whose artifacts nothing here can run: what is written is read back, and says so; and those of tier 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.runtime import Bundle
from edgellm.targets import load_target, target_names

from .conftest import edgellm

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("target", ["android-arm64-vulkan", "ios-arm64-ane"])
def test_what_can_t_be_run_is_checked_and_says_that_it_was_not_run(
    model: Callable[[str], Path], target: str, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = edgellm("build", str(model("encoder")), "--target", target, "--seq-len", "16,32", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "not run" in done.stdout
    manifest = Bundle.open(out).manifest
    assert [artifact.agreement for artifact in manifest.artifacts] == [None] * len(manifest.artifacts)
    assert any("was not run" in note for note in manifest.notes)
    found = {artifact.format: artifact.delegation for artifact in manifest.artifacts}["executorch"]
    assert found is not None
    assert (found.partitions, found.share_of_cost, found.heavy) == (1, 1, ())
    assert edgellm("doctor", str(out)).returncode == 0
    done = edgellm("run", str(out), "hello")
    assert (done.returncode, "runs nothing of" in done.stderr) == (2, True)


@pytest.mark.parametrize("target", [name for name in target_names() if load_target(name).tier == 3])
def test_a_target_of_tier_3_names_the_sdk_and_where_it_is_had(target: str, tmp_path: Path) -> None:
    done = edgellm("build", "--target", target, "--out", str(tmp_path / "bundle"))
    assert done.returncode == 4
    assert "SDK" in done.stderr
    assert "Get it from" in done.stderr
    assert not (tmp_path / "bundle").exists()
