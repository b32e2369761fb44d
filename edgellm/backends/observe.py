"""Observing: what the linears of a module read and write while calibration inputs run through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

Samples = Sequence[Mapping[str, torch.Tensor]]
"""Calibration inputs by name, one text each."""

Note = Callable[[str, torch.Tensor], None]
"""Takes the name of a linear and its input [..., in] or output [..., out]."""


def linear(model: nn.Module, name: str) -> nn.Linear:
    """Return the linear of that name."""
    found = model.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


def _tables(model: nn.Module) -> set[int]:
    """Return the identities of the weights that are embedding tables."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def groups(model: nn.Module, feeds: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
    """Return the linears of a model, grouped by reading the same tensor.

    One that is called several times, each time with other companions, is left out: its input is no one tensor. So is
    one whose weight is an embedding table as well, which files would then hold twice.
    """
    tables = _tables(model)
    seen: list[tuple[str, torch.Tensor]] = []  # keeps the tensors, so that no id is used twice

    def note(name: str, value: torch.Tensor) -> None:
        seen.append((name, value))

    watch(model, [name for name, module in model.named_modules() if type(module) is nn.Linear], [feeds], reads=note)
    calls: dict[int, list[str]] = {}
    for name, value in seen:
        calls.setdefault(id(value), []).append(name)
    found = list(dict.fromkeys(tuple(dict.fromkeys(names)) for names in calls.values()))
    return [
        group
        for group in found
        if all(sum(name in other for other in found) == 1 for name in group)
        and not any(id(linear(model, name).weight) in tables for name in group)
    ]


def called(model: nn.Module, feeds: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Return the linears whose inputs can be observed, and those for which that is not so, of all that are called.

    Not so where one is called by keyword, has a forward of its own, or has an embedding table as its weight.
    """
    tables = _tables(model)
    plain: dict[str, bool] = {}
    hooks = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        own = type(module) is not nn.Linear or id(module.weight) in tables

        def note(module: nn.Module, args: object, output: object, name: str = name, own: bool = own) -> None:
            plain[name] = plain.get(name, True) and bool(args) and not own

        hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(**feeds)
    finally:
        for each in hooks:
            each.remove()
    return [name for name, fine in plain.items() if fine], [name for name, fine in plain.items() if not fine]


def looked_up_by(model: nn.Module, feeds: Mapping[str, torch.Tensor]) -> set[nn.Module]:
    """Return the embeddings that a forward pass calls, and does not compute with instead."""
    found: set[nn.Module] = set()
    hooks = [
        table.register_forward_hook(lambda table, args, output: found.add(table))
        for table in model.modules()
        if isinstance(table, nn.Embedding)
    ]
    with torch.no_grad():
        model(**feeds)
    for hook in hooks:
        hook.remove()
    return found


def watch(
    model: nn.Module, names: Sequence[str], samples: Samples, *, reads: Note | None = None, writes: Note | None = None
) -> None:
    """Run a model, and hand over what each named linear reads and writes whenever it is called."""
    hooks = []
    for name in names:

        def before(module: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
            if args and reads is not None:  # a call by keyword is left alone
                reads(name, args[0])  # the very tensor: companions are known by it

        def after(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor, name: str = name) -> None:
            if args and writes is not None:
                writes(name, output)

        hooks += [
            model.get_submodule(name).register_forward_pre_hook(before),
            model.get_submodule(name).register_forward_hook(after),
        ]
    try:
        with torch.no_grad():
            for item in samples:
                model(**item)
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: the order of sums, and so an artifact's bytes, must not depend on free cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
