"""The native runner's library, embedded in C programs as an app does it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgellm.runtime import Bundle
from edgellm.toolchain import runner as toolchain
from tests.integration.runner.driving import TIMEOUT, run

pytestmark = pytest.mark.integration


def compiled(name: str, library: Path, folder: Path) -> Path:
    """Build a C program of this folder on `edgellm.h` as an app does."""
    source, app = Path(__file__).with_name(name), folder / "app"
    subprocess.run(
        ["cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{library}", str(source),
         f"-L{library}", "-ledgellm", f"-Wl,-rpath,{library},-rpath-link,{library}", "-o", str(app)], check=True,
    )  # fmt: skip
    return app


def test_an_app_in_c_embeds_it(program: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    app = compiled("app.c", program.parent, tmp_path)
    done = subprocess.run([str(app), str(demo_bundle.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, name, first = done.stdout.replace(") ", ")|").partition("|")[0], *done.stdout.split()[-2:]
    assert version == f"{toolchain._own_version()} (executorch 1.5.1)"
    assert name == "embedding"
    line = run(program, "ids", str(demo_bundle.path), text="101 7592 102").stdout
    assert np.float32(first) == np.float32(json.loads(line)["outputs"]["embedding"][0][0])


def test_threads_with_a_session_each_get_the_same_values(program: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    app = compiled("threads.c", program.parent, tmp_path)
    command = [str(app), str(demo_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+\.\d+\.\d+", toolchain._own_version())[0] == done.stdout.strip()  # type: ignore[index]
