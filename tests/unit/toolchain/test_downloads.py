"""Downloads: whatever a network does to a file, it gets its name only with the right content."""

from __future__ import annotations

import hashlib
import http.server
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.errors import DeviceError
from edgellm.toolchain import downloads
from edgellm.toolchain.downloads import Download, fetch

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any name; its switches plant one fault each."""

    content = CONTENT
    breaks_after: int | None = None  # bytes of the first answer, then the line goes dead
    ranges = True
    status = 200
    busy_answers = 0  # how many times it says 503 first

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.lock = threading.Lock()

    def download(self, name: str = "file.whl", **changes: object) -> Download:
        values = {"sha256": SHA256, "bytes": len(CONTENT), **changes}
        return Download(name, f"http://127.0.0.1:{self.server_port}/{name}?token=secret", **values)  # type: ignore[arg-type]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        with self.server.lock:
            self.server.requests.append(wanted)
            first = len(self.server.requests) == 1
            busy = self.server.busy_answers > 0
            self.server.busy_answers -= busy
        if busy or self.server.status != 200:
            self.send_error(503 if busy else self.server.status)
            return
        content = self.server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.breaks_after if first else None
        self.wfile.write(content[start : start + cut] if cut is not None else content[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def test_a_file_comes_once_and_is_reported(server: Server, tmp_path: Path) -> None:
    told: list[int] = []
    for _ in range(2):
        (path,) = fetch([server.download()], tmp_path, lambda download, done: told.append(done))
        assert path.read_bytes() == CONTENT
    assert path == tmp_path / "file.whl"
    assert server.requests == [None]
    assert told[0] == 0
    assert told[-1] == len(CONTENT)


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path, size: int | None) -> None:
    server.breaks_after = 300_000
    fetch([server.download(bytes=size)], tmp_path)
    assert server.requests == [None, "bytes=300000-"]


def test_a_later_run_goes_on_where_an_earlier_one_stopped(server: Server, tmp_path: Path) -> None:
    download = server.download()
    (tmp_path / f".{download.name}.{SHA256[:16]}.part").write_bytes(CONTENT[:1000])
    told: list[int] = []
    (path,) = fetch([download], tmp_path, lambda download, done: told.append(done))
    assert path.read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]
    assert told[0] == 1000


def test_a_server_that_ignores_ranges_makes_it_start_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks_after = 300_000
    (path,) = fetch([server.download()], tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_part_of_something_else_is_fetched_again_from_the_first_byte(server: Server, tmp_path: Path) -> None:
    download = server.download()
    (tmp_path / f".{download.name}.{SHA256[:16]}.part").write_bytes(b"x" * 1000)
    (path,) = fetch([download], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", None]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_longer_than_the_file_is_fetched_again(server: Server, tmp_path: Path, size: int | None) -> None:
    download = server.download(bytes=size)
    (tmp_path / f".{download.name}.{SHA256[:16]}.part").write_bytes(CONTENT + b"more")
    (path,) = fetch([download], tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x", b""])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_truncated_or_altered_file_is_never_there(
    server: Server, tmp_path: Path, served: bytes, size: int | None
) -> None:
    server.content = served
    with pytest.raises(DeviceError, match=r"file\.whl could not be downloaded"):
        fetch([server.download(bytes=size)], tmp_path)
    assert not (tmp_path / "file.whl").exists()


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.whl").write_bytes(CONTENT[:-10])
    (path,) = fetch([server.download()], tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.busy_answers = 2
    fetch([server.download()], tmp_path)
    assert len(server.requests) == 3


def test_what_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DeviceError, match="answered 404") as caught:
        fetch([server.download()], tmp_path)
    assert server.requests == [None]
    assert "secret" not in str(caught.value)


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.deb?secret"
        with pytest.raises(DeviceError, match=r"a\.deb could not .* refused.* goes on where it stopped") as caught:
            fetch([Download("a.deb", url, SHA256)], tmp_path)
    assert "secret" not in str(caught.value)


def test_file_addresses_are_copied(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    (path,) = fetch([Download("copy", (tmp_path / "source").as_uri(), SHA256)], tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    with pytest.raises(DeviceError, match="no such file"):
        fetch([Download("other", (tmp_path / "gone").as_uri(), SHA256)], tmp_path / "cache")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".."])
def test_a_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeviceError, match="no file name"):
        fetch([Download(name, "file:///dev/null", SHA256)], tmp_path)


def test_an_address_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="starts with 'ftp:'"):
        fetch([Download("x", "ftp://127.0.0.1/x", SHA256)], tmp_path)


def test_two_at_once_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch, args=([server.download()], tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "file.whl").read_bytes() == CONTENT
    assert server.requests == [None]
