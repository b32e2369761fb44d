"""Doctor: what is installed, what misses for which format, and what is outside the versions tested together."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from edgellm.backends import TOOLS, backend_names
from edgellm.errors import EdgellmError
from edgellm.runtime import engines
from edgellm.runtime.machine import Machine, machine


@dataclass(frozen=True)
class Package:
    """One distribution that edgellm names.

    Attributes:
        name: distribution.
        wanted: the range tested together, as pyproject.toml states it.
        found: installed version, or None.
        extra: what it belongs to: "base", "onnx", "build", ...
        ok: whether the installed version lies in the range; None where it is not installed.

    """

    name: str
    wanted: str
    found: str | None
    extra: str
    ok: bool | None


@dataclass(frozen=True)
class FormatHealth:
    """What a format can do here: run (its engine), build (its converters), and what misses."""

    format: str
    engine: str | None
    can_build: bool
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """The doctor's findings.

    Attributes:
        ok: nothing installed lies outside its range.
        python, python_ok: version, and whether it is the one tested.
        machine: what this machine is.
        packages: every distribution that edgellm names.
        formats: per format what works.

    """

    ok: bool
    python: str
    python_ok: bool
    machine: Machine
    packages: tuple[Package, ...]
    formats: tuple[FormatHealth, ...]


def examine() -> Health:
    """Return what is installed against what was tested together. Imports no engine and no converter."""
    # packaging comes with tokenizers (through huggingface_hub), so every device has it.
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        stated = importlib.metadata.requires("edgellm") or []
        python = importlib.metadata.metadata("edgellm")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        raise EdgellmError("edgellm itself is not installed as a package.", hint="pip install it.") from None
    packages = {}
    for line in stated:
        requirement = Requirement(line)
        if requirement.name == "edgellm" or requirement.name in packages:
            continue
        extra = str(requirement.marker).partition('"')[2].partition('"')[0] if requirement.marker else "base"
        if extra != "test":
            packages[requirement.name] = _package(requirement.name, str(requirement.specifier), extra, SpecifierSet)
    python_ok = platform.python_version() in SpecifierSet(python or "")
    return Health(
        ok=python_ok and all(p.ok is not False for p in packages.values()),
        python=platform.python_version(),
        python_ok=python_ok,
        machine=machine(),
        packages=tuple(packages.values()),
        formats=tuple(_format(fmt) for fmt in backend_names()),
    )


def _package(name: str, wanted: str, extra: str, specifiers: type) -> Package:
    found = _version(name)
    return Package(name, wanted, found, extra, None if found is None else found in specifiers(wanted))


def _format(fmt: str) -> FormatHealth:
    try:
        runs = fmt in engines.engine_names() and engines.installed_package(fmt)
        engine = engines.engine_version(fmt) if runs else None
    except EdgellmError as error:  # what EDGELLM_RUNNER names does not run
        engine = f"broken: {error}"
    missing = tuple(tool for tool in TOOLS[fmt] if _version(tool) is None)
    return FormatHealth(fmt, engine, not missing, missing)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
