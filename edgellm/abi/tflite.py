"""Does a TFLite file fit a target's runtime? Schema, and the version of every operator.

A runtime refuses a file when it has no kernel registered for an operator code's version, whether or not the graph uses
that code. Which versions it has is in `tflite_operators.tsv`, measured by loading one empty model per operator and
version with each release. Upstream keeps the reverse, incomplete, in `tflite/tools/versioning/runtime_version.cc`
(google-ai-edge/LiteRT): "minimum runtime version" per operator version, in TensorFlow's numbers, of which
tflite-runtime has the same and ai-edge-litert has its own (1.1 is about 2.18, 1.3 about 2.20, 2.1 newer than any).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from edgellm.abi import FileFacts, Finding, Level
from edgellm.abi.flatbuffer import Table, identifier, root
from edgellm.abi.reader import DamagedError, Reader, opened
from edgellm.core.target import RUNTIMES, Target
from edgellm.core.versions import Release, dotted, oldest, release
from edgellm.errors import InputError

IDENTIFIER = "TFL3"
_SCHEMA = 3
_CUSTOM = 32
_PLACEHOLDER = 127
"""Codes above this don't fit the old 8-bit field, which then holds it."""

Operator = tuple[int, int, str]
"""Builtin code, version, and the name of a custom operator."""


def examine_tflite(path: Path, subject: str, target: Target | None) -> tuple[FileFacts, list[Finding]]:
    """Return facts and findings of one TFLite file.

    Raises:
        InputError: it can't be read, is no TFLite file, or is damaged.

    """
    with opened(path) as reader:
        try:
            found = identifier(reader)
            if found != IDENTIFIER:
                raise DamagedError(f"it has {found!r} where {IDENTIFIER!r} belongs")
            schema, operators, counts = _read(reader)
        except DamagedError as error:
            raise InputError(f"{path} is no sound TFLite file: {error}.", hint="Copy or build it again.") from None
    names = tuple(sorted({describe(operator) for operator in operators}))
    facts = FileFacts(
        subject, "tflite", {"schema": schema, "subgraphs": len(counts), "operators": sum(counts), "versions": names}
    )
    rules: list[tuple[str, Level, str, str]] = []
    if schema != _SCHEMA:
        rules.append(
            ("schema", "error", f"schema version {schema}; runtimes read {_SCHEMA}.", "Convert the model again.")
        )
    if target is not None:
        for package in RUNTIMES["tflite"]:
            if package in target.runtimes:
                rules += _against(operators, package, target)
    return facts, [Finding(subject, *rule) for rule in rules]


def supported(package: str, version: Release) -> tuple[str, dict[int, int]] | None:
    """Return the release whose row answers for `version`, and its operator code to newest version.

    A release that is newer than the table has all that the last one has. None where it is older than the table.
    """
    known = [(row, name) for (name, row) in table()[1] if name == package and row <= (*version, 0, 0)[:2]]
    if not known:
        return None
    row = max(known)[0]
    return f"{package} {dotted(row)}", table()[1][package, row]


@functools.cache
def table() -> tuple[dict[int, str], dict[tuple[str, Release], dict[int, int]]]:
    """Return operator names by code, and per runtime release the newest version by code (without those it lacks)."""
    text = resources.files("edgellm.abi").joinpath("tflite_operators.tsv").read_text(encoding="utf-8")
    head, *lines = (line.split("\t") for line in text.splitlines())
    runtimes = [(package, release(version)) for package, version in (column.split() for column in head[2:])]
    names = {int(line[0]): line[1] for line in lines}
    columns = {
        (package, (*version, 0)[:2]): {int(line[0]): int(line[2 + i]) for line in lines if line[2 + i] != "0"}
        for i, (package, version) in enumerate(runtimes)
    }
    return names, columns


def describe(operator: Operator) -> str:
    """Return what people call an operator: "FULLY_CONNECTED v12"."""
    code, version, custom = operator
    if code == _CUSTOM:
        return f"custom {custom}"
    return f"{table()[0].get(code, f'builtin {code}')} v{version}"


def _against(operators: list[Operator], package: str, target: Target) -> Iterator[tuple[str, Level, str, str]]:
    version = oldest(target.runtimes[package])
    rows = supported(package, version)
    if rows is None:
        yield (
            "operators", "warning", f"nothing is known of {package} {dotted(version)}, which {target.name} allows.",
            "Raise the target's oldest version, or try the file on the device.",
        )  # fmt: skip
        return
    name, newest = rows
    unknown = sorted(op for op in set(operators) if op[0] != _CUSTOM and op[1] > newest.get(op[0], 0))
    custom = sorted({op[2] for op in operators if op[0] == _CUSTOM})
    if unknown:
        lacking = ", ".join(
            f"{describe(op)} ({f'it has up to v{newest[op[0]]}' if op[0] in newest else 'it has none'})"
            for op in unknown
        )
        yield (
            "operators", "error", f"{name}, the oldest that {target.name} allows, lacks {lacking}.",
            "Raise the target's oldest version, or convert with an older converter.",
        )  # fmt: skip
    if custom:
        yield (
            "operators", "error", f"{name} has no custom operator {', '.join(custom)}.",
            "Flex operators need TensorFlow's delegate; rewrite the model without them, or register them in the app.",
        )  # fmt: skip
    if not unknown and not custom:
        yield "operators", "ok", f"{name}, the oldest that {target.name} allows, has all {len(set(operators))}.", ""


def _read(reader: Reader) -> tuple[int, list[Operator], list[int]]:
    """Return schema version, operator codes, and how many operators each subgraph has."""
    model = root(reader)
    operators = [_operator(code) for code in model.tables(1)]
    counts = []
    for graph in model.tables(2):
        used = Counter(operator.scalar(0, "I") for operator in graph.tables(3))
        if used and max(used) >= len(operators):
            raise DamagedError("an operator has no code")
        counts.append(sum(used.values()))
    if not counts:
        raise DamagedError("it has no graph")
    for buffer in model.tables(4):
        # The bytes of a constant: in the flatbuffer, or behind it where that would pass 2 GB.
        buffer.count(0, 1)
        offset, size = buffer.scalar(1, "Q"), buffer.scalar(2, "Q")
        if offset > 1 and offset + size > reader.size:
            raise DamagedError(f"it ends at byte {reader.size}, and a constant should go on to {offset + size}")
    return model.scalar(0, "I"), operators, counts


def _operator(code: Table) -> Operator:
    old, new = code.scalar(0, "b"), code.scalar(3, "i")
    builtin = new if old >= _PLACEHOLDER else max(old, new)
    return builtin, code.scalar(2, "i", 1), code.text(1) if builtin == _CUSTOM else ""
