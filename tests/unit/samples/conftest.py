"""The modules of samples/finetune, which find each other as they do when one is run: in its folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "samples" / "finetune"


@pytest.fixture(scope="module")
def finetune() -> Iterator[Callable[[str], ModuleType]]:
    """Return a module by its name."""
    names = [path.stem for path in FOLDER.glob("*.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(finetune: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes the data."""
    return finetune("data")


@pytest.fixture(scope="module")
def sources(finetune: Callable[[str], ModuleType]) -> ModuleType:
    """What it takes out of which package."""
    return finetune("sources")


@pytest.fixture(scope="module")
def rows(finetune: Callable[[str], ModuleType]) -> ModuleType:
    """Rows, in memory and on disk."""
    return finetune("rows")
