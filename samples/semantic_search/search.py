"""Semantic search over the lines of a text file: vectors are made once, and never used for another text or artifact."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from edgellm.errors import DeviceError, EdgellmError, InputError, UsageError
from edgellm.runtime import Bundle, Result, Session
from edgellm.runtime.machine import machine

Vectors = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def read_passages(path: Path) -> tuple[dict[int, str], str]:
    """Return the passages by line number, and the SHA-256 of the file."""
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start} is wrong.", hint="Convert it first.") from None
    passages = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    if not passages:
        raise InputError(f"{path} is empty.", hint="Write one passage per line.")
    return passages, hashlib.sha256(data).hexdigest()


def embed(session: Session, text: str) -> tuple[Vectors, Result]:
    """Return the vector [width] of a text, of length 1 even if the model does not see to that, and the full result."""
    result = session(text)
    vector = np.asarray(result.value, dtype=np.float32)
    if not session.bundle.manifest.task_options.normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return vector, result


def load_index(path: Path, facts: Path, made_of: dict[str, object]) -> tuple[Vectors, list[int]] | str:
    """Return vectors [passages, width] and the numbers of lines that were cut, or why they must be made."""
    try:
        saved = json.loads(facts.read_bytes())
        if changed := [key for key, value in made_of.items() if saved[key] != value]:
            return f"another {' and '.join(changed)}"
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != saved["vectors_sha256"]:
            return "the old one was damaged"
        return np.load(io.BytesIO(data), allow_pickle=False), [int(line) for line in saved["truncated_lines"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "the old one was damaged" if facts.exists() else "there was none"


def save_index(path: Path, facts: Path, made_of: dict[str, object], vectors: Vectors, cut: list[int]) -> None:
    """Replace both files, each at once; a power cut between them leaves hashes that differ: damaged, never stale."""
    np.save(buffer := io.BytesIO(), vectors, allow_pickle=False)
    saved = {**made_of, "vectors_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "truncated_lines": cut}
    for target, data in ((facts, json.dumps(saved, indent=2).encode() + b"\n"), (path, buffer.getvalue())):
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".index-") as folder:
                Path(folder, target.name).write_bytes(data)
                Path(folder, target.name).replace(target)
        except OSError as error:
            raise DeviceError(f"{target} can't be written: {error.strerror}.", hint="Try another --index.") from None


def index(session: Session, passages: dict[int, str], sha256: str, path: Path) -> tuple[Vectors, list[int], str | None]:
    """Return vectors, numbers of lines that were cut, and why they were made now (None: they are from before)."""
    manifest, facts = session.bundle.manifest, path.with_name(path.name + ".json")
    if path.suffix != ".npy" or (path.exists() and not facts.exists()):
        raise UsageError(f"{path} can't be the index: it must end in .npy, and overwrites no other file.")
    made_of: dict[str, object] = {
        "text": sha256,
        "artifact": {"id": session.artifact.id, "sha256": session.artifact.sha256},
        "tokenizer": next(file.sha256 for file in manifest.files if file.path == "tokenizer.json"),
        "max_tokens": manifest.max_tokens,
    }
    found = load_index(path, facts, made_of)
    if not isinstance(found, str):
        return *found, None
    with click.progressbar(passages.values(), label="Indexing", file=sys.stderr) as texts:
        made = [embed(session, passage) for passage in texts]
    vectors = np.stack([vector for vector, _ in made])
    cut = [line for line, (_, result) in zip(passages, made, strict=True) if result.truncated]
    save_index(path, facts, made_of, vectors, cut)
    return vectors, cut, found


@click.command()
@click.argument("bundle")
@click.argument("textfile", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("--top", default=3, type=click.IntRange(min=1), help="Passages to print.")
@click.option("--format", "fmt", help="A format of the bundle; the first whose engine is installed if left out.")
@click.option("--threads", default=1, help="Compute threads.")
@click.option("--index", "file", type=click.Path(path_type=Path), help="Vectors; TEXTFILE.index.npy if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def search(
    bundle: str, textfile: Path, query: str, top: int, fmt: str | None, threads: int, file: Path | None, as_json: bool
) -> None:
    """Print the lines of TEXTFILE whose meaning is nearest to QUERY."""
    passages, sha256 = read_passages(textfile)
    opened = Bundle.open(bundle)
    if opened.manifest.task != "feature-extraction" or opened.manifest.task_options.pooling == "none":
        raise InputError(f"{bundle} does not give one vector per text.", hint="Search needs a sentence encoder.")
    if not query.strip():
        raise InputError("The query is empty.")
    session = Session.open(opened, format=fmt, threads=threads)
    path = file or textfile.with_name(textfile.name + ".index.npy")
    start = time.perf_counter()
    vectors, cut, why = index(session, passages, sha256, path)
    index_ms = (time.perf_counter() - start) * 1e3
    vector, result = embed(session, query)
    timing, start = result.timing, time.perf_counter()
    scores = vectors @ vector
    rows = np.argsort(-scores, kind="stable")[:top]
    search_ms = (time.perf_counter() - start) * 1e3
    best = [(float(scores[row]), list(passages)[row]) for row in rows]
    if as_json:
        made = {"file": str(path), "passages": len(passages), "reused": why is None, "reason": why, "ms": index_ms}
        hits = [{"score": score, "line": n, "text": passages[n], "truncated": n in cut} for score, n in best]
        asked = {**asdict(timing), "search_ms": search_ms, "first": why is None, "truncated": result.truncated}
        facts = {"format": session.format, "threads": threads, "load_ms": session.load_ms, "machine": str(machine())}
        click.echo(json.dumps({"results": hits, "query": asked, "index": made, **facts}, ensure_ascii=False))
        return
    for score, n in best:
        click.echo(f"{score:.3f}  line {n}: {passages[n]}{' (too long: its end was not read)' if n in cut else ''}")
    first, long = "" if why else " (the first)", "; too long: its end was not read" if result.truncated else ""
    how = f"made in {index_ms:.0f} ms ({why}; {len(cut)} too long)" if why else f"reused, read in {index_ms:.1f} ms"
    click.echo(f"""
query: tokenize {timing.tokenize_ms:.2f} ms, inference {timing.inference_ms:.2f} ms{first}, search {search_ms:.2f} ms{long}
index: {len(passages)} passages, {how}: {path}
model: {session.artifact.id}, {threads} thread{"s"[: threads > 1]}, loaded in {session.load_ms:.0f} ms
measured on {machine()}""")


if __name__ == "__main__":
    try:
        search()
    except EdgellmError as error:
        click.echo(f"search: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
