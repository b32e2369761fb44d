"""What tests of the native runner share: a runner that is built once, and a bundle to break."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgellm.core.manifest import Artifact
from edgellm.runtime import Bundle
from edgellm.toolchain.facts import EXECUTABLE
from tests.integration.conftest import edgellm


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `edgellm runner build --json` printed."""
    out = tmp_path_factory.mktemp("runner") / "runner"
    done = edgellm("runner", "build", "--target", "linux-x86_64", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="session")
def program(built: dict[str, Any]) -> Path:
    return Path(built["path"], EXECUTABLE)


@pytest.fixture(scope="session")
def artifact(demo_bundle: Bundle) -> Artifact:
    return demo_bundle.artifact("executorch")


@pytest.fixture
def copied(demo_bundle: Bundle, artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the bundle to break; the artifacts that the runner can't run stay away, as on a device."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("manifest.json", "golden.jsonl", artifact.file):
        shutil.copy(demo_bundle.path / name, folder / name)
    return folder
