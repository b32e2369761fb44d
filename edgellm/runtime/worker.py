"""The worker: runs one artifact in a process of its own, JSON lines in and out.

    python -m edgellm.runtime

One request a line on standard input, one reply a line on what was standard output; whatever an engine prints there
goes to standard error. The native runner speaks the same lines, but for `run` and `time` with an input, as it has no
tokenizer, and also answers {"op": "usage"} with {"cpu_ms", "peak_rss_mb"}. Requests and replies:

    {"op": "open", "bundle": DIR, "artifact": ID, "threads": N}   -> {"protocol", "engine", "load_ms", "machine"}
    {"op": "run", "input": RAW, "max_tokens": N|null}             -> {"feeds", "outputs", "value", "timing", "truncated"}
    {"op": "infer", "feeds": {NAME: [[...]]}}                     -> {"outputs", "timing"}
    {"op": "time", "input": RAW, "max_tokens": N, "warmup": W, "runs": R}
                                  -> {"tokens", "tokenize_ms": [...], "inference_ms": [...], "cpu_ms", "peak_rss_mb"}
    {"op": "time", "feeds": {NAME: [[...]]}, "warmup": W, "runs": R}     -> the same; nothing is tokenized, tokenize_ms is 0

Where an input takes several passes, `time` times the first of them.

A failed request gets {"error": {"kind", "message", "hint"}}, and the worker goes on. It ends at the end of its input.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from edgellm.core.signature import Feeds
from edgellm.errors import DeviceError, EdgellmError, InputError, UsageError, to_wire
from edgellm.runtime import engines
from edgellm.runtime.bundle import to_feeds, to_json
from edgellm.runtime.machine import machine, out_of_memory
from edgellm.runtime.session import Session

Request = dict[str, Any]
Reply = dict[str, object]
PROTOCOL = 1
"""Version of these lines; the native runner states the same."""

_LESS_MEMORY = "Give it more, or build for fewer tokens, or with an int8 scheme."


class Worker:
    """Holds the one session that requests are about."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._ops: dict[str, Callable[[Request], Reply]] = {
            "open": self._open,
            "run": self._run,
            "infer": self._infer,
            "time": self._time,
        }

    def reply(self, line: str) -> Reply:
        """Return the reply to one request line; errors become replies as well."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or request.get("op") not in self._ops:
                raise UsageError(f"A request is an object whose op is one of {', '.join(self._ops)}.")
            return self._ops[request["op"]](request)
        except EdgellmError as error:
            return {"error": to_wire(_starved(error) or error)}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            bad = InputError(f"The request is wrong: {type(error).__name__} {error}.")
            traceback.print_exc(file=sys.stderr)
            return {"error": to_wire(bad)}
        except Exception as error:  # the parent must hear of it, whatever an engine raises
            traceback.print_exc(file=sys.stderr)
            return {"error": to_wire(_starved(error) or EdgellmError(f"{type(error).__name__}: {error}."))}

    @property
    def session(self) -> Session:
        """The open session.

        Raises:
            UsageError: nothing was opened.

        """
        if self._session is None:
            raise UsageError("No artifact is open: send an open request first.")
        return self._session

    def _open(self, request: Request) -> Reply:
        if self._session is not None:
            raise UsageError("A worker holds one artifact; start another worker for the next.")
        self._session = Session.open(
            request["bundle"], format=request["artifact"], threads=int(request.get("threads", 1))
        )
        fmt = self._session.format
        return {
            "protocol": PROTOCOL,
            "engine": engines.engine_version(fmt),
            "load_ms": self._session.load_ms,
            "machine": dataclasses.asdict(machine()),
        }

    def _run(self, request: Request) -> Reply:
        session = self.session
        done = session.run(request["input"], max_tokens=request.get("max_tokens"))
        return {
            "feeds": to_json(done.feeds),
            "outputs": to_json(done.outputs),
            "value": to_json(session.value(request["input"], done)),
            "timing": dataclasses.asdict(done.timing),
            "truncated": any(encoding.truncated for encoding in done.encodings),
        }

    def _infer(self, request: Request) -> Reply:
        feeds = to_feeds(request["feeds"])
        start = time.perf_counter()
        outputs = self.session.infer(feeds)
        took = (time.perf_counter() - start) * 1e3
        return {"outputs": to_json(outputs), "timing": {"tokenize_ms": 0.0, "inference_ms": took}}

    def _time(self, request: Request) -> Reply:
        """Time a block of runs. The clock runs where the engine does, so that no pipe is part of any figure."""
        remote = self.session.remote
        warmup, runs = int(request.get("warmup", 0)), int(request["runs"])
        if "feeds" in request and "input" in request:
            raise UsageError("A time request has either feeds or an input.")
        if "feeds" in request:
            return self._timed(to_feeds(request["feeds"]), [0.0] * runs, warmup, runs)
        if remote:
            return self._timed_remotely(request["input"], request.get("max_tokens"), warmup, runs)
        return self._timed_from_text(request["input"], request.get("max_tokens"), warmup, runs)

    def _timed_from_text(self, text: object, limit: int | None, warmup: int, runs: int) -> Reply:
        """Tokenize and infer in turns, as an app does."""
        session = self.session
        before = 0.0
        tokens = 0
        tokenize, inference = [], []
        for number in range(warmup + runs):
            if number == warmup:
                before = session.usage().cpu_ms
            start = time.perf_counter()
            feeds = session.encode(text, max_tokens=limit)[1][0]
            tokenized = time.perf_counter()
            session.infer(feeds)
            done = time.perf_counter()
            if number >= warmup:
                tokenize.append((tokenized - start) * 1e3)
                inference.append((done - tokenized) * 1e3)
                tokens = _length(feeds)
        after = session.usage()
        return _times(tokens, tokenize, inference, after.cpu_ms - before - sum(tokenize), after.peak_rss_mb)

    def _timed_remotely(self, text: object, limit: int | None, warmup: int, runs: int) -> Reply:
        """Tokenize here, and let the process that computes time itself."""
        tokenize = []
        feeds: Feeds = {}
        for number in range(max(runs, 1)):
            start = time.perf_counter()
            feeds = self.session.encode(text, max_tokens=limit)[1][0]
            if number < runs:
                tokenize.append((time.perf_counter() - start) * 1e3)
        return self._timed(feeds, tokenize, warmup, runs)

    def _timed(self, feeds: Feeds, tokenize: list[float], warmup: int, runs: int) -> Reply:
        self.session.time(feeds, runs=warmup)
        before = self.session.usage().cpu_ms
        inference = self.session.time(feeds, runs=runs)
        after = self.session.usage()
        return _times(_length(feeds), tokenize, inference, after.cpu_ms - before, after.peak_rss_mb)


def _length(feeds: Feeds) -> int:
    return int(next(iter(feeds.values())).shape[1])


def _times(tokens: int, tokenize: list[float], inference: list[float], cpu_ms: float, peak_rss_mb: float) -> Reply:
    return {
        "tokens": tokens,
        "tokenize_ms": tokenize,
        "inference_ms": inference,
        "cpu_ms": max(cpu_ms, 0.0),
        "peak_rss_mb": peak_rss_mb,
    }


def _starved(error: Exception) -> DeviceError | None:
    """Return the error to report instead where memory ran out, which engines tell in many ways."""
    text = f"{type(error).__name__}: {error}"
    if not out_of_memory(text):
        return None
    return DeviceError(f"The worker ran out of memory ({text[:200]}).", hint=_LESS_MEMORY)


def main() -> int:
    """Serve requests until the end of standard input."""
    # JSON is UTF-8 whatever the locale; bytes that are none become an error of one line and not of the worker.
    lines = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    replies = _claim_stdout()
    worker = Worker()
    for line in lines:
        replies.write(json.dumps(worker.reply(line), allow_nan=True) + "\n")
        replies.flush()
    return 0


def _claim_stdout() -> TextIO:
    """Return a stream on the real standard output, and point descriptor 1 at standard error.

    Engines print from C++; one stray line would break the protocol.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies
