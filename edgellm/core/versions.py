"""Version bounds such as ">=1.17,<2", as targets state them: release numbers only, and always with an oldest version.

A device has no `packaging` it could rely on, and a target needs less than PEP 440: no pre-releases, no exclusions.
"""

from __future__ import annotations

import re

Release = tuple[int, ...]
"""A release number: (1, 17) is 1.17, and equal to (1, 17, 0)."""

_CLAUSE = re.compile(r"(>=|<=|==|~=|<)\s*([0-9]{1,9}(?:\.[0-9]{1,9}){0,3})")


def release(text: str) -> Release:
    """Return the release number that `text` starts with: "2.13.0+cpu" gives (2, 13).

    Raises:
        ValueError: it starts with no number.

    """
    match = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", text)
    if match is None:
        raise ValueError(f"{text!r} is no version")
    return _trimmed(tuple(int(part) for part in match.group().split(".")))


def dotted(version: Release) -> str:
    """Return a release number as people write it, with two numbers at least."""
    return ".".join(str(part) for part in (*version, *(0,) * (2 - len(version))))


def oldest(bounds: str) -> Release:
    """Return the oldest release that `bounds` allow.

    Raises:
        ValueError: they are not bounds, have no oldest release, or allow none at all.

    """
    clauses = _clauses(bounds)
    lower = [version for sign, version, _ in clauses if sign in (">=", "==", "~=")]
    if not lower:
        raise ValueError(f"{bounds!r} names no oldest version; begin it with >=")
    found = max(lower)
    if not contains(bounds, found):
        raise ValueError(f"{bounds!r} allows no version at all")
    return found


def contains(bounds: str, version: Release) -> bool:
    """Tell whether `version` lies within `bounds`.

    Raises:
        ValueError: `bounds` are none.

    """
    return all(_holds(sign, bound, length, _trimmed(version)) for sign, bound, length in _clauses(bounds))


def _clauses(bounds: str) -> list[tuple[str, Release, int]]:
    """Return sign, release and how many numbers were written, per clause."""
    found = []
    for part in bounds.split(","):
        match = _CLAUSE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{bounds!r} is not a list of version bounds such as '>=1.17,<2'")
        numbers = tuple(int(number) for number in match[2].split("."))
        if match[1] == "~=" and len(numbers) < 2:
            raise ValueError(f"{bounds!r}: ~= needs two numbers, such as ~=1.5")
        found.append((match[1], _trimmed(numbers), len(numbers)))
    return found


def _holds(sign: str, bound: Release, length: int, version: Release) -> bool:
    if sign == "~=":  # PEP 440: everything but the last number that was written stays the same
        padded = (*version, *(0,) * length)
        fixed = (*bound, *(0,) * length)
        return version >= bound and padded[: length - 1] == fixed[: length - 1]
    return {">=": version >= bound, "<=": version <= bound, "==": version == bound, "<": version < bound}[sign]


def _trimmed(version: Release) -> Release:
    while len(version) > 1 and version[-1] == 0:
        version = version[:-1]
    return version
