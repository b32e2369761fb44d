"""Pasting the output of commands into documents: each document starts clean, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import commands, paste, shape

DOCUMENT = """# Search

```console
$ cp samples/notes.txt build/notes.txt
$ test -e build/index && echo reused || (echo made; touch build/index)
$ test -e build/index && echo reused || (echo made; touch build/index)
old
$ echo two \\
>   lines
$ ls build/demo targets
```

```sh
$ this is no console
```
"""
PRINTED = """# Search

```console
$ cp samples/notes.txt build/notes.txt
$ test -e build/index && echo reused || (echo made; touch build/index)
made
$ test -e build/index && echo reused || (echo made; touch build/index)
reused
$ echo two \\
>   lines
two lines
$ ls build/demo targets
build/demo:
manifest.json

targets:
phone.toml
```

```sh
$ this is no console
```
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like the checkout, in which somebody ran the document's commands, and verified the bundle."""
    root = tmp_path / "checkout"
    for name in (
        "samples/notes.txt",
        "targets/phone.toml",
        "build/demo/manifest.json",
        "build/demo/reports/verify.json",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "build/index").touch()
    (root / "build/notes.txt").write_text("older notes")
    return root


def files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_an_earlier_run_left_changes_nothing_and_nothing_is_left(checkout: Path) -> None:
    document = checkout / "README.md"
    document.write_text(DOCUMENT)
    before = files(checkout)
    for _ in range(2):
        paste(document, checkout / "build/demo", checkout)
        assert files(checkout) == {**before, "README.md": PRINTED}


def test_a_command_that_stands_there_twice_gets_its_own_output_each_time(checkout: Path) -> None:
    document = checkout / "README.md"
    twice = "```console\n$ echo x >> n; wc -l < n\n1\n$ echo x >> n; wc -l < n\n{}\n```\n"
    document.write_text(twice.format("1"))
    paste(document, checkout / "build/demo", checkout)
    assert document.read_text() == twice.format("2")


def test_commands_write_to_copies_alone(checkout: Path) -> None:
    document = checkout / "README.md"
    document.write_text("```console\n$ rm -r samples build/demo/*; echo x > targets/phone.toml\n```\n")
    before = files(checkout)
    paste(document, checkout / "build/demo", checkout)
    assert files(checkout) == before


def test_a_command_that_fails_leaves_the_document_as_it_was(checkout: Path) -> None:
    document = checkout / "README.md"
    document.write_text("```console\n$ echo new\nold\n$ echo said; echo why >&2; exit 3\n```\n")
    before = files(checkout)
    with pytest.raises(AssertionError, match=r"exit 3\nsaid\nwhy"):
        paste(document, checkout / "build/demo", checkout)
    assert files(checkout) == before


def test_blocks_for_emulated_devices_are_told_apart() -> None:
    text = "```console\n$ a\n```\n\n```console emulator\n$ b\n```\n"
    assert [[c.line for c in commands(text, emulator=which)] for which in (None, False, True)] == [
        ["a", "b"],
        ["a"],
        ["b"],
    ]


def test_numbers_and_folders_may_differ_and_words_may_not() -> None:
    assert shape("p50  2.73 ms in /tmp/a/x.npy") == shape("p50 13.1 ms in /home/b/x.npy")
    assert shape("made in 3 ms") != shape("reused in 3 ms")
