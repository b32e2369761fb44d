"""Progress on standard error: live with rich on a terminal; piped, one line per stage of a build, or per tenth of a count."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgellm.stages.produce import Progress, Report


@contextmanager
def build_progress(*, quiet: bool) -> Iterator[Report]:
    """Yield the function that a build reports to."""
    if quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _live() as report:
            yield report
    else:
        yield _plain


def _plain(event: Progress) -> None:
    if event.seconds is not None:
        print(f"{event.stage:<18} {_took(event)}", file=sys.stderr, flush=True)


@contextmanager
def _live() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bars = Bars(
        SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    )
    tasks: dict[str, TaskID] = {}

    def report(event: Progress) -> None:
        if event.seconds is None:
            tasks[event.stage] = bars.add_task(event.stage, total=1)
        elif event.cached:
            bars.add_task(f"{event.stage} [dim](cached)[/dim]", total=1, completed=1)
        else:
            bars.update(tasks[event.stage], completed=1)

    with bars:
        yield report


@contextmanager
def bar(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield the function that is told how many are done, of how many; with the time that is left."""
    if quiet:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        tenths = -1

        def tell(done: int, total: int) -> None:
            nonlocal tenths
            if done * 10 // max(total, 1) > tenths:
                tenths = done * 10 // max(total, 1)
                print(f"{name:<18} {done} of {total}", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _took(event: Progress) -> str:
    return "cached" if event.cached else f"{event.seconds:.1f} s"
