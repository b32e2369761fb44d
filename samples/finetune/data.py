"""Real labelled texts out of published packages: train.jsonl, dev.jsonl and test.jsonl, the same on every machine.

Which file to take is pip's and npm's to say, so that indexes, mirrors and proxies are the machine's own; its hash is
pinned, and no code of it runs (see sources.py).
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from rows import Row, describe, write, write_lines
from sources import SOURCES, Source

from edgellm.errors import DeviceError, EdgellmError, InputError, MissingDependencyError, unknown
from edgellm.folders import cache_dir
from edgellm.toolchain.downloads import Download, fetch
from edgellm.toolchain.packages import npm_tarball

SHARES = {"train": 70, "dev": 10, "test": 20}
"""Percent of the texts. By a hash of its letters a text is always in the same one, whatever else the data holds."""
CALIBRATION = 96
"""Training texts in calibration.txt, for `edgellm build --calibration`."""
GOLDEN = 288
"""Other training texts in golden.txt, for `edgellm build --golden`."""


def locate(source: Source) -> Download:
    """Return a source's file, at the address that the machine's own pip or npm gives.

    Raises:
        MissingDependencyError: there is no pip or npm.
        DeviceError: it does not know the file.

    """
    if source.registry == "npm":
        return npm_tarball(source.package, source.version, sha256=source.sha256, size=source.bytes)
    # `pip download` would run a source package's setup.py to learn its dependencies. This only lists, and tells
    # the addresses when asked to be verbose.
    command = [
        sys.executable, "-m", "pip", "index", "versions", source.package, "--no-binary=:all:", "-vv",
        "--no-input", "--disable-pip-version-check", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise MissingDependencyError(f"{source.file} comes through pip, which is not installed.")
    for address in re.findall(r"Found link ([^\s,#]+)", done.stdout):
        if address.endswith("/" + source.file):
            return Download(source.file, address, source.sha256, source.bytes)
    said = [line.strip() for line in done.stderr.splitlines() if "err" in line.lower()] or ["it knows no such file"]
    raise DeviceError(
        f"pip gives no address for {source.file} of {source.package} {source.version}: {said[0]}.",
        hint="See that pip reaches its registry, then run it again.",
    )


def split(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each part, in an order of their own.

    Texts that differ only in case, spacing and punctuation are one; one that was labelled in two ways is left out.
    """
    texts: dict[str, dict[tuple[str, ...], Row]] = {}
    for row in rows:
        letters = " ".join(re.findall(r"\w+", row.text.lower())) or row.text
        digest = hashlib.sha256(letters.encode("utf-8")).hexdigest()
        texts.setdefault(digest, {}).setdefault(row.labels, row)
    parts: dict[str, list[Row]] = {name: [] for name in SHARES}
    for digest, ways in sorted(texts.items()):
        if len(ways) == 1:
            parts[_part(digest)].extend(ways.values())
    return parts


def write_parts(parts: dict[str, list[Row]], out: Path) -> None:
    """Write a JSON Lines file per part, and texts to calibrate with and to gate on."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        write(out / f"{name}.jsonl", rows)
    texts = [row.text for row in parts["train"]]
    write_lines(out / "calibration.txt", texts[:CALIBRATION])
    write_lines(out / "golden.txt", texts[CALIBRATION : CALIBRATION + GOLDEN])


def _part(digest: str) -> str:
    """Return the part that a text belongs to, by the first bits of its hash."""
    place = int(digest[:8], 16) % 100
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    raise AssertionError(SHARES)


@click.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; build/NAME if left out.")
def data(name: str | None, out: Path | None) -> None:
    """Write the labelled texts NAME; without a name, list what there is, and under which licence."""
    if name is None:
        for key, source in SOURCES.items():
            click.echo(f"{key}: {source.package} {source.version} ({source.registry}), {source.licence}")
            click.echo(f"  {source.about}")
        return
    if name not in SOURCES:
        raise unknown("data", name, SOURCES)
    source, folder = SOURCES[name], out or Path("build") / name
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", hint="Name a folder for --out.")
    download = locate(source)
    with click.progressbar(length=source.bytes, label="Downloading", file=sys.stderr) as bar:
        [path] = fetch([download], cache_dir() / "samples", lambda _, done: bar.update(done - bar.pos))
    with click.progressbar(source.rows(path), label="Reading", file=sys.stderr) as rows:
        parts = split(rows)
    write_parts(parts, folder)
    for part, labelled in parts.items():
        click.echo(f"{part:<5} {len(labelled):>5}: {describe(labelled)}")
    click.echo(
        f"{folder}: from {source.package} {source.version} ({source.registry}), {source.licence}. {source.about}"
    )


if __name__ == "__main__":
    try:
        data()
    except EdgellmError as error:
        click.echo(f"data: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
