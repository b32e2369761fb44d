"""What a model does that a format can't express, said in one sentence that names the construct and where it stands.

Two things fail: the trace, where a model's Python code depends on the text or its length; and a converter, which has no
translation for an operator. Both raise exceptions of their own libraries, pages long. The full text goes to the log.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from edgellm.errors import EdgellmError, InputError

_OPERATOR = re.compile(r"\b(?:aten|prims)(?:\.|::)(\w+)")
_NOT_THE_MODELS = ("edgellm", "torch", "torchao")
_PASSED_ON = (EdgellmError, ImportError, MemoryError, OSError)


@contextmanager
def tracing(module: nn.Module) -> Iterator[None]:
    """Turn what torch.export raises into one sentence.

    Raises:
        InputError: the model can't be traced; names the line of its code.

    """
    try:
        yield
    except _PASSED_ON:
        raise
    except Exception as error:  # torch.export raises what the model's code raises, and kinds of its own
        traceback.print_exc()
        line = _line_of_model(error, module)
        if line is None:
            raise InputError(
                f"{_name(module)} can't be traced with texts of any length: {_reason(error)}.", hint=_NOT_HERE
            ) from None
        raise InputError(
            f"{_name(module)} can't be traced: {line}, where torch.export says: {_reason(error)}.", hint=_NOT_HERE
        ) from None


@contextmanager
def converting(fmt: str, trace: Callable[[], ExportedProgram], module: nn.Module) -> Iterator[None]:
    """Turn what a converter raises about an operator into one sentence; anything else passes through.

    Args:
        fmt: the format.
        trace: returns the program that is converted; only called after a failure.
        module: what was traced.

    Raises:
        InputError: the format has no translation for an operator (names the module that uses it), or the converter
            traces for itself and can't.

    """
    try:
        yield
    except _PASSED_ON:
        raise
    except Exception as error:  # converters raise anything
        traceback.print_exc()
        program = trace()
        operators = _operators_in(error)
        if not operators:
            raise
        raise unsupported(fmt, operators, _reason(error), program, module) from None


def unsupported(
    fmt: str, operators: Sequence[str], reason: str, program: ExportedProgram, module: nn.Module
) -> InputError:
    """Return the error for operators (names without namespace) that a format can't express, for a reason."""
    # What a converter names may only come out of a decomposition.
    places = {**_places(program.run_decompositions()), **_places(program)}
    operator = next((name for name in operators if name in places), operators[0])
    place = places.get(operator, "")
    return InputError(
        f"{fmt} can't express aten.{operator}, which {_name(module)} uses{place}: {reason}.",
        hint="Other formats may: name them with --format.",
    )


_NOT_HERE = "Code that depends on the text can't become a graph; a rewritten module can be built from a function."


def _name(module: nn.Module) -> str:
    """Return the class of the user's model inside the task's wrapper."""
    return type(getattr(module, "model", module)).__name__


def _line_of_model(error: BaseException, module: nn.Module) -> str | None:
    """Return the innermost line of the model's own code that an exception came through, or None."""
    packages = {type(child).__module__.partition(".")[0] for child in module.modules()} - {*_NOT_THE_MODELS}
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in packages:
            continue
        source = " ".join(linecache.getline(file, number).split())
        found = f"{frame.f_code.co_qualname} ({Path(file).name} line {number}) has `{source[:120]}`"
    return found


def _reason(error: BaseException) -> str:
    """Return the sentence of an exception's text that says most: of violated constraints, what was inferred."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    inferred = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return (inferred or lines)[0].partition(". ")[0][:240].rstrip(".")


def _operators_in(error: BaseException) -> list[str]:
    """Return the names of ATen operators in an exception's text and in those it came from, in order."""
    names: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        names += _OPERATOR.findall(str(current))
        current = current.__cause__ or current.__context__
    return list(dict.fromkeys(names))


def _places(program: ExportedProgram) -> dict[str, str]:
    """Return per operator of a program the module that it first stands in."""
    places: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            places.setdefault(node.target._schema.name.partition("::")[2], _place(node))
    return places


def _place(node: torch.fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    if path in ("", "model"):
        return ""
    cls = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    return f" in {path.removeprefix('model.')} ({cls})"
