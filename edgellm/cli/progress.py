"""Progress of a build on standard error: live with rich on a terminal, one line per stage when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


def _took(event: Progress) -> str:
    return "cached" if event.cached else f"{event.seconds:.1f} s"
