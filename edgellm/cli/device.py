"""`edgellm devices` and `edgellm device`: what can be reached, and making it so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgellm.emulation.setup import Progress
    from edgellm.toolchain.downloads import Download

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


@click.command()
@_JSON
def devices(as_json: bool) -> None:
    """List the devices that artifacts can be verified and measured on."""
    from edgellm.cli.render import columns
    from edgellm.core import strict
    from edgellm.device import devices as find

    found = find()
    if as_json:
        click.echo(json.dumps({"devices": strict.plain(found)}))
        return
    rows = [(d.name, d.description, "ready" if d.ready else f"not ready: {d.hint}") for d in found]
    click.echo(columns(("device", "what it is", ""), rows, left=3))


@click.group()
def device() -> None:
    """Make devices ready."""


@device.group()
def setup() -> None:
    """Install what a kind of device needs on this machine."""


@setup.command()
@click.option("--cpu", "cpus", multiple=True, metavar="NAME", help="CPU model to try out (may be repeated).")
@_JSON
def emulator(cpus: tuple[str, ...], as_json: bool) -> None:
    """Download qemu, a Debian 12 for aarch64 and the engines' wheels into the cache, once. Needs no root rights."""
    from edgellm.core import strict
    from edgellm.emulation.install import install

    with _progress(quiet=as_json) as progress:
        done = install(progress, cpus)
    if as_json:
        click.echo(json.dumps(strict.plain(done)))
        return
    did = "is ready" if done.already else "was set up"
    click.echo(
        f"The emulator {did} in {done.folder}: {done.downloaded_mb:.0f} MB downloaded, {done.disk_mb:.0f} MB on disk, "
        f"{done.seconds:.0f} s."
    )
    for line in done.missing:
        click.echo(f"Not possible yet, {line}")


@setup.command()
@_JSON
def vela(as_json: bool) -> None:
    """Download Arm's compiler for Ethos-U into the cache, once: what `--target ethos-u...` is built with."""
    from edgellm.toolchain import vela as compiler

    with _progress(quiet=as_json) as progress:
        progress.step(f"Vela {compiler.version()}")
        folder = compiler.setup(progress.downloading)
    if as_json:
        click.echo(json.dumps({"version": compiler.version(), "folder": str(folder)}))
    else:
        click.echo(f"Vela {compiler.version()} is ready in {folder}.")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """Yield what a setup reports to: live on a terminal, a line per step when piped."""
    if quiet or not sys.stderr.isatty():
        yield _Lines(quiet)
        return
    try:
        from rich.console import Console
    except ImportError:
        yield _Lines(quiet)
        return
    with Console(stderr=True).status("") as status:
        yield _Live(status.update)


class _Lines:
    """Writes a line per step."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def step(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)

    def downloading(self, download: Download, done: int) -> None:
        """Nothing: the step's line says it."""


class _Live:
    """Keeps one line up to date."""

    def __init__(self, update: Callable[[str], None]) -> None:
        self._update = update
        self._text = ""

    def step(self, text: str) -> None:
        self._text = text
        self._update(text)

    def downloading(self, download: Download, done: int) -> None:
        of = f" of {download.bytes / 1e6:.1f}" if download.bytes else ""
        self._update(f"{self._text}: {download.name.partition('_')[0]}, {done / 1e6:.1f}{of} MB")
