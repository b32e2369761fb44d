"""The texts of a build: golden, calibration and evaluation, which must not overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from edgellm.errors import InputError


def read_calibration(path: Path) -> list[str]:
    """Return the texts of a calibration file, one per line.

    Raises:
        InputError: it can't be read, is not UTF-8, or holds no text.

    """
    texts = [line.strip() for line in _read(path, "calibration").split("\n") if line.strip()]
    if not texts:
        raise InputError(f"The calibration file {path} holds no text.", hint="It takes one text per line.")
    return texts


def read_labelled(path: Path) -> list[dict[str, object]]:
    """Return the rows of an evaluation file: tab-separated values with the columns `text` and `label`.

    Raises:
        InputError: it can't be read, is not UTF-8, has other columns, or holds no row.

    """
    content = _read(path, "evaluation")
    hint = "It is tab-separated, and its first line is: text<TAB>label"
    # Quotes are text here: reviews are full of them, and a TSV has no need to quote. The csv module would also refuse
    # long fields and lone carriage returns.
    rows = [line.removesuffix("\r").split("\t") if line.strip("\r") else [] for line in content.split("\n")]
    header = rows[0] if rows else []
    if not {"text", "label"} <= set(header):
        found = ", ".join(header[:6]) or "nothing"
        raise InputError(f"The evaluation file {path} lacks the columns text and label; it has {found}.", hint=hint)
    text, label = header.index("text"), header.index("label")
    labelled: list[dict[str, object]] = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{path} line {number} has {len(row)} columns, the header {len(header)}.", hint=hint)
        if not row[text].strip() or not row[label].strip():
            raise InputError(f"{path} line {number} has an empty text or label.", hint=hint)
        labelled.append(dict(zip(header, row, strict=True)))
    if not labelled:
        raise InputError(f"The evaluation file {path} holds no row below its header.", hint=hint)
    return labelled


def ensure_disjoint(**sets: Iterable[str]) -> None:
    """Check that no text stands in two sets, by hash of its letters without case and spacing.

    Raises:
        InputError: one does; the message shows it.

    """
    seen: dict[str, str] = {}
    for name, texts in sets.items():
        for text in texts:
            digest = hashlib.sha256(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")).hexdigest()
            other = seen.setdefault(digest, name)
            if other != name:
                raise InputError(
                    f'The {name} texts and the {other} texts both hold "{text[:60]}"; what is measured on must not be '
                    "what was chosen with.",
                    hint=f"Remove it from the {name} file.",
                )


def _read(path: Path, kind: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"The {kind} file {path} is not UTF-8: byte {error.start} does not decode.",
            hint="Convert it, for example: iconv -f latin1 -t utf-8",
        ) from None
    except OSError as error:
        raise InputError(f"The {kind} file {path} can't be read: {error.strerror}.") from None
