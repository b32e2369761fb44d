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


def groups(model: nn.Module, feeds: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
    """Return the linears of a model, grouped by reading the same tensor.

    One that is called several times, each time with other companions, is left out: its input is no one tensor. So is
    one whose weight is an embedding table as well, which files would then hold twice.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
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
