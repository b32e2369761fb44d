"""Where edgellm keeps things: the data that ships beside the code, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from edgellm.errors import MissingDependencyError

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the folder `name` ("targets", "toolchains"): inside the wheel, or at the top of a checkout."""
    installed = _PACKAGE / f"_{name}"
    return installed if installed.is_dir() else _PACKAGE.parent / name


def cache_dir() -> Path:
    """Return the user's cache folder, absolute: EDGELLM_CACHE, or the platform's. It may not exist yet.

    Raises:
        MissingDependencyError: platformdirs or filelock is not installed.

    """
    try:
        import filelock  # noqa: F401
        import platformdirs
    except ImportError as error:
        raise MissingDependencyError(
            f"This needs {error.name}.", hint="Install it with: pip install 'edgellm[build]'"
        ) from None
    chosen = os.environ.get("EDGELLM_CACHE")
    return Path(chosen or platformdirs.user_cache_dir("edgellm")).expanduser().absolute()
