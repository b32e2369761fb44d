"""Finds tasks, backends and engines by file name, and imports one when it is used.

Adding a file adds the thing; there is no registry to keep in step. A name may hold hyphens
(`feature-extraction`), its file has underscores (`feature_extraction.py`).
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def names(package: str, known: tuple[str, ...] = ()) -> list[str]:
    """Return the plugin names in `package` ("edgellm.tasks"), sorted; with `known`, only those."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{package} is not a package")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py"))
    return [name for name in found if name in known] if known else found


def load(package: str, name: str) -> ModuleType:
    """Import and return the plugin `name` of `package`."""
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
