"""Downloads: files by address and SHA-256, fetched once into a folder.

A file gets its name only after its hash was checked, a broken transfer goes on where it stopped, and two processes
that want the same file take turns. Nothing here knows where anything comes from: pip and apt say that (`packages`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.runtime.bundle import sha256_file

ATTEMPTS = 4
"""Transfers in a row that bring nothing new before a download has failed."""
PAUSE_S = 1.0
"""Before the second attempt; twice as long before each further one."""
TIMEOUT_S = 60.0
"""Without a byte, after which a transfer is given up."""

_CHUNK = 1 << 18
_SCHEMES = ("http", "https", "file")


@dataclass(frozen=True)
class Download:
    """A file somewhere else.

    Attributes:
        name: of the file once it is here; no folder in it.
        url: http, https or file.
        sha256: of its content, in hex.
        bytes: its size, where the index tells.

    """

    name: str
    url: str
    sha256: str
    bytes: int | None = None


Report = Callable[[Download, int], None]
"""Told how many bytes of a download are here: first what an earlier run left, then as it grows. Not told of files
that were here already."""


def fetch(downloads: Sequence[Download], folder: Path, report: Report | None = None) -> list[Path]:
    """Return the files of `downloads` in `folder`, in order, fetching those that are not there with the right hash.

    Raises:
        DeviceError: the network, the disk or the server failed, or the content is not what the hash says.
        MissingDependencyError: filelock is not installed.

    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetch_one(download, folder, report or _silent) for download in downloads]


def _silent(download: Download, done: int) -> None:
    """Report nothing."""


def _fetch_one(download: Download, folder: Path, report: Report) -> Path:
    if Path(download.name).name != download.name or download.name in ("", ".", ".."):
        raise DeviceError(f"{download.name!r} is no file name.")
    path = folder / download.name
    part = folder / f".{download.name}.{download.sha256[:16]}.part"
    with _locked(folder / f".{download.name}.lock"):
        if path.is_file():
            if sha256_file(path) == download.sha256:
                return path
            path.unlink()  # damaged after it came, or an older file of the same name
        try:
            _transfer(download, part, report)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DeviceError(
                    f"No room in {folder} for {download.name}: {error.strerror}.", hint="Make room and run it again."
                ) from None
            raise
        part.rename(path)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file."""
    try:
        from filelock import FileLock
    except ImportError as error:
        raise MissingDependencyError(
            f"Downloads need {error.name}.", hint="Install it with: pip install 'edgellm[build]'"
        ) from None
    with FileLock(path):
        yield


def _transfer(download: Download, part: Path, report: Report) -> None:
    """Fill `part` until its hash is right."""
    failures = 0
    most = _size(part)  # progress is what is more than ever was here: a server may make us begin again and again
    fresh = not most  # whether every byte of the part came in this run
    while True:
        try:
            fresh |= _continue(download, part, report)
            cause = f"it broke off after {_size(part)} bytes"
            complete = download.bytes is None or _size(part) >= download.bytes
        except _Broken as error:
            cause, complete = error.cause, False
            if error.final:
                raise _failed(download, cause, error.hint) from None
        if complete:
            if sha256_file(part) == download.sha256:
                return
            cause = "its SHA-256 is not the one that its index states"
            part.unlink()
            # What an earlier run left may have been at fault: one try from the first byte.
            if fresh:
                raise _failed(download, cause, "It was altered on the way or at its source; nothing of it was kept.")
            fresh = True
            continue
        failures = 1 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures >= ATTEMPTS:
            raise _failed(download, cause)
        time.sleep(PAUSE_S * 2 ** (failures - 1))


def _continue(download: Download, part: Path, report: Report) -> bool:
    """Fetch what `part` lacks; return whether the server started over from the first byte.

    Raises:
        _Broken: the transfer failed; what came so far is in `part`.

    """
    have = _size(part)
    if download.bytes is not None and have >= download.bytes:
        report(download, have)
        return False
    scheme = urllib.parse.urlsplit(download.url).scheme
    if scheme not in _SCHEMES:
        raise _Broken(f"an address that starts with '{scheme}:' can't be fetched", final=True)
    request = urllib.request.Request(download.url, headers={"User-Agent": "edgellm"})  # noqa: S310  checked above
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with _open(request) as response:
            resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT and _starts_at(response, have)
            done = have if resumed else 0
            left = response.headers.get("Content-Length")
            expected = done + int(left) if left and left.isdigit() else None
            report(download, done)
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    report(download, done)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # more is here than there is: it belongs to something else
            raise _Broken("the server has fewer bytes than are here") from None
        passing = error.code >= 500 or error.code in (408, 429)
        raise _Broken(f"the server answered {error.code} {error.reason}", final=not passing) from None
    except (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _broken_by(error) from None
    if expected is not None and done < expected:
        raise _Broken(f"it broke off after {done} of {expected} bytes")
    return not resumed


class _Broken(Exception):  # noqa: N818  an event on the way, which no user meets
    """A transfer that did not come to its end."""

    def __init__(self, cause: str, *, final: bool = False, hint: str = "") -> None:
        super().__init__(cause)
        self.cause, self.final, self.hint = cause, final, hint


def _broken_by(error: Exception) -> _Broken:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _Broken(
            f"the server's certificate is not trusted ({reason.verify_message})",
            final=True,
            hint="Name the file with your network's certificates in SSL_CERT_FILE.",
        )
    if isinstance(reason, FileNotFoundError):
        return _Broken("there is no such file", final=True)
    return _Broken(str(reason) or type(reason).__name__)


def _failed(download: Download, cause: str, hint: str = "") -> DeviceError:
    address = urllib.parse.urlsplit(download.url)._replace(query="", fragment="")
    netloc = address.netloc.rpartition("@")[2]  # a password has no place in a message
    return DeviceError(
        f"{download.name} could not be downloaded from {address._replace(netloc=netloc).geturl()}: {cause}.",
        hint=hint or "Run it again when the network is there: it goes on where it stopped.",
    )


def _starts_at(response: http.client.HTTPResponse, offset: int) -> bool:
    """Return whether a partial answer begins where it was asked to."""
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Open an address with the certificates and proxies that the environment or pip's configuration names.

    pip's, because an index behind a company's proxy is often set up for pip alone.
    """
    handlers: list[urllib.request.BaseHandler] = []
    if request.type == "https":
        context = ssl.create_default_context()  # OpenSSL itself honours SSL_CERT_FILE and SSL_CERT_DIR
        for bundle in (os.environ.get("REQUESTS_CA_BUNDLE"), _pip_setting("cert")):
            if bundle and Path(bundle).is_file():
                context.load_verify_locations(bundle)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    if request.type != "file" and not urllib.request.getproxies() and (proxy := _pip_setting("proxy")):
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    opened: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S)
    return opened


def _pip_setting(name: str) -> str | None:
    """Return a setting of pip's, None without one or without pip."""
    return os.environ.get(f"PIP_{name.upper()}") or _pip_config().get(name)


@functools.cache
def _pip_config() -> dict[str, str]:
    """Return what pip's configuration files set for every command."""
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.startswith("global.") and value[:1] == value[-1:] == "'":
            found[key.removeprefix("global.")] = value[1:-1]
    return found
