"""Does an ExecuTorch program fit a target's runtime? Identifier, schema, delegates and kernels.

After `schema/program.fbs` and `extended_header.cpp` of pytorch/executorch. Which kernels there are is in
`executorch_operators.txt`: what the optimized, portable, quantized and primitive libraries of the wheel register.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from edgellm.abi import FileFacts, Finding, Level
from edgellm.abi.flatbuffer import identifier, root
from edgellm.abi.reader import DamagedError, Reader, opened
from edgellm.core.target import Target
from edgellm.core.versions import dotted, oldest
from edgellm.errors import InputError

IDENTIFIER = "ET12"
_HEADER = b"eh00"
_KNOWN = (1, 5)
"""The release that `executorch_operators.txt` and `_SCHEMA` are of; newer ones read what it reads."""
_SCHEMA = 0
"""EXECUTORCH_SCHEMA_VERSION: the newest that its C++ runtime agrees to load."""

_BACKENDS = {
    "coreml": "CoreMLBackend",
    "ethos-u": "EthosUBackend",
    "mediatek": "NeuropilotBackend",
    "mps": "MPSBackend",
    "neutron": "NeutronBackend",
    "qnn": "QnnBackend",
    "samsung": "EnnBackend",
    "vulkan": "VulkanBackend",
    "xnnpack": "XnnpackBackend",
}
"""A target's delegate to the id under which its backend registers."""


def examine_executorch(path: Path, subject: str, target: Target | None) -> tuple[FileFacts, list[Finding]]:
    """Return facts and findings of one ExecuTorch program.

    Raises:
        InputError: it can't be read, is no ExecuTorch program, or is damaged.

    """
    with opened(path) as reader:
        try:
            found = identifier(reader)
            if found[:2] != "ET" or not found[2:].isdigit():
                raise DamagedError(f"it has {found!r} where {IDENTIFIER!r} belongs")
            facts, operators, delegates = _read(reader, subject) if found == IDENTIFIER else _other(subject, found)
        except DamagedError as error:
            raise InputError(
                f"{path} is no sound ExecuTorch program: {error}.", hint="Copy or build it again."
            ) from None
    rules = _against(found, int(str(facts.values.get("schema") or 0)), operators, delegates, target) if target else ()
    return facts, [Finding(subject, *rule) for rule in rules]


@functools.cache
def kernels() -> frozenset[str]:
    """Return the operators that the release's libraries have kernels for, as "namespace::name.overload"."""
    text = resources.files("edgellm.abi").joinpath("executorch_operators.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def _against(
    found: str, schema: int, operators: list[str], delegates: Counter[str], target: Target
) -> Iterator[tuple[str, Level, str, str]]:
    if "executorch" not in target.runtimes:
        return
    version = oldest(target.runtimes["executorch"])
    runtime = f"ExecuTorch {dotted(version)}"
    if found != IDENTIFIER:
        yield (
            "schema", "error", f"identifier {found}; {runtime}, the oldest that {target.name} allows, reads {IDENTIFIER}.",
            "Build it with the ExecuTorch release that the target runs.",
        )  # fmt: skip
        return
    if version < _KNOWN:
        yield (
            "schema", "warning", f"nothing is known of {runtime}, which {target.name} allows.",
            f"Raise the target's oldest version to {dotted(_KNOWN)}, or try the file on the device.",
        )  # fmt: skip
    if schema > _SCHEMA:
        yield (
            "schema", "error", f"schema version {schema}; {runtime} reads up to {_SCHEMA}.",
            "Build it with the ExecuTorch release that the target runs.",
        )  # fmt: skip
    else:
        yield "schema", "ok", f"{found}, version {schema}.", ""
    delegate = target.delegates.get("executorch", "")
    strange = sorted(set(delegates) - {_BACKENDS.get(delegate, delegate)})
    if strange:
        yield (
            "delegate", "error", f"needs {', '.join(strange)}, and the delegate of {target.name} is {delegate}.",
            "Build it for this target, or link that backend and declare it.",
        )  # fmt: skip
    elif delegates:
        yield "delegate", "ok", f"{', '.join(delegates)}, {sum(delegates.values())} partitions.", ""
    missing = sorted(set(operators) - kernels())
    if missing:
        yield (
            "operators", "error", f"no library of {runtime} has a kernel for {', '.join(missing)}.",
            "Lower it so that the delegate takes them, or link a library that registers them.",
        )  # fmt: skip
    else:
        yield "operators", "ok", f"{runtime} has kernels for all {len(set(operators))} outside the delegate.", ""


def _other(subject: str, found: str) -> tuple[FileFacts, list[str], Counter[str]]:
    """Return what can be said of a schema that is not known: its name."""
    return FileFacts(subject, "executorch", {"identifier": found}), [], Counter()


def _read(reader: Reader, subject: str) -> tuple[FileFacts, list[str], Counter[str]]:
    if reader.size > 40 and reader.at(8, 4) == _HEADER:
        program, base = reader.unpack("QQ", 16)
        if program > reader.size or base > reader.size:
            raise DamagedError(f"it ends at byte {reader.size}, and its program should go on to {max(program, base)}")
    else:
        base = 0
    model = root(reader)
    operators: list[str] = []
    delegates: Counter[str] = Counter()
    methods = []
    for plan in model.tables(1):
        methods.append(plan.text(0))
        for operator in plan.tables(6):
            overload = operator.text(1)
            operators.append(f"{operator.text(0)}.{overload}" if overload else operator.text(0))
        delegates.update(delegate.text(0) for delegate in plan.tables(7))
    if not methods:
        raise DamagedError("it has no method")
    for segment in model.tables(4):
        end = base + segment.scalar(0, "Q") + segment.scalar(1, "Q")
        if end > reader.size:
            raise DamagedError(f"it ends at byte {reader.size}, and a segment should go on to {end}")
    facts = FileFacts(
        subject,
        "executorch",
        {
            "identifier": IDENTIFIER,
            "schema": model.scalar(0, "I"),
            "methods": tuple(methods),
            "delegates": tuple(f"{name} x {count}" for name, count in sorted(delegates.items())),
            "kernels": tuple(sorted(set(operators))),
        },
    )
    return facts, operators, delegates
