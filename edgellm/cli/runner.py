"""`edgellm runner`: builds the native runner."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgellm.toolchain.downloads import Download
    from edgellm.toolchain.facts import RunnerBuild


@click.group()
def runner() -> None:
    """Make the native runner, for devices and apps without Python."""


@runner.command()
@click.option("--target", required=True, help="A target, or the name of a toolchain: linux-arm64, linux-x86_64, ...")
@click.option("--out", required=True, help="The runner's folder; it works wherever it is copied to.")
@click.option(
    "--no-sysroot", is_flag=True, help="Link the cross compiler's own C library, not one old enough for the target."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def build(target: str, out: str, no_sysroot: bool, as_json: bool) -> None:
    """Build the native runner for TARGET, cross-compiled if need be."""
    from edgellm.targets import load_target
    from edgellm.toolchain.runner import build_runner, toolchain_names

    toolchain = target if target in toolchain_names() else load_target(target).toolchain
    announced: set[str] = set()

    def report(download: Download, done: int) -> None:
        if not as_json and download.name not in announced:
            announced.add(download.name)
            click.echo(f"downloading {download.name}", err=True)

    done = build_runner(toolchain, Path(out), sysroot=not no_sysroot, report=report)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(done), "path": str(done.path)}, ensure_ascii=False))
    else:
        click.echo(_built(done))


def _built(done: RunnerBuild) -> str:
    """Return what a person wants to know of a runner."""
    c_library = f"glibc {done.glibc} or newer" if done.glibc else "no glibc"
    cxx_library = f" and libstdc++ with GLIBCXX_{done.glibcxx}" if done.glibcxx else ""
    return (
        f"edgellm-runner {done.version} for {done.toolchain} -> {done.path}\n\n"
        f"program    {done.executable_bytes / 1e6:6.2f} MB\n"
        f"libraries  {done.libraries_bytes / 1e6:6.2f} MB, of ExecuTorch {done.executorch}, beside it\n"
        f"needs      {c_library}{cxx_library} on the device\n"
        f"           ({', '.join(done.needed)})\n"
        f"built by   {done.compiler}"
    )
