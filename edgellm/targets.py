"""Finds and reads targets: one TOML file each, in the checkout or in the installed wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

from edgellm.core import strict
from edgellm.core.target import Target
from edgellm.errors import InputError, unknown
from edgellm.folders import shipped


def targets_dir() -> Path:
    """Return the folder of target files."""
    return shipped("targets")


def target_names() -> list[str]:
    """Return the names of all targets, sorted."""
    return sorted(path.stem for path in targets_dir().glob("*.toml"))


def load_target(name: str) -> Target:
    """Return the target `name`.

    Raises:
        UsageError: no such target; the message names the nearest.
        InputError: its file does not fit `Target`.

    """
    if name not in target_names():
        raise unknown("target", name, target_names(), hint="'edgellm targets' lists all.")
    return read_target(targets_dir() / f"{name}.toml")


def read_target(path: Path) -> Target:
    """Return the target in the file `path`; its stem is the target's name.

    Raises:
        InputError: the file is not TOML, or does not fit `Target`.

    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if "name" in data:
            raise strict.StrictError(f"{path.name}: unknown key 'name'; the file name is the name")
        target = strict.read(Target, {"name": path.stem, **data}, path.name)
        target.ensure_deployable()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not TOML: {error}.") from None
    except strict.StrictError as error:
        raise InputError(f"{error}.", hint="targets/ has files to copy from.") from None
    except ValueError as error:
        raise InputError(f"{path.name}: {error}.", hint="targets/ has files to copy from.") from None
    return target
