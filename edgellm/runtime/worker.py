"""The worker: runs one artifact in a process of its own, JSON lines in and out.

    python -m edgellm.runtime

One request a line on standard input, one reply a line on what was standard output; whatever an engine prints there
goes to standard error. The native runner speaks the same lines. Requests and replies:

    {"op": "open", "bundle": DIR, "artifact": ID, "threads": N}   -> {"engine", "load_ms", "machine"}
    {"op": "run", "input": RAW, "max_tokens": N|null}             -> {"feeds", "outputs", "value", "timing", "truncated"}
    {"op": "infer", "feeds": {NAME: [[...]]}}                     -> {"outputs", "timing"}
    {"op": "time", "input": RAW, "max_tokens": N, "warmup": W, "runs": R}
                                  -> {"tokens", "tokenize_ms": [...], "inference_ms": [...], "cpu_ms", "peak_rss_mb"}

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

from edgellm.errors import EdgellmError, InputError, UsageError, to_wire
from edgellm.runtime import engines
from edgellm.runtime.bundle import to_feeds, to_json
from edgellm.runtime.machine import machine, peak_rss_bytes
from edgellm.runtime.session import Session
from edgellm.tasks import load_task

Request = dict[str, Any]
Reply = dict[str, object]


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
            return {"error": to_wire(error)}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            bad = InputError(f"The request is wrong: {type(error).__name__} {error}.")
            traceback.print_exc(file=sys.stderr)
            return {"error": to_wire(bad)}
        except Exception as error:  # the parent must hear of it, whatever an engine raises
            traceback.print_exc(file=sys.stderr)
            return {"error": to_wire(EdgellmError(f"{type(error).__name__}: {error}."))}

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
            "engine": engines.engine_version(fmt),
            "load_ms": self._session.load_ms,
            "machine": dataclasses.asdict(machine()),
        }

    def _run(self, request: Request) -> Reply:
        session = self.session
        done = session.run(request["input"], max_tokens=request.get("max_tokens"))
        manifest = session.bundle.manifest
        return {
            "feeds": to_json(done.feeds),
            "outputs": to_json(done.outputs),
            "value": to_json(load_task(manifest.task).decode(done.outputs, manifest.task_options)),
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
        """Time a block of runs. The clock runs here, so that the pipe is not part of any figure."""
        session = self.session
        text, limit = request["input"], request.get("max_tokens")
        for _ in range(int(request.get("warmup", 0))):
            session.run(text, max_tokens=limit)
        tokenize, inference = [], []
        cpu = time.process_time()
        tokens = 0
        for _ in range(int(request["runs"])):
            done = session.run(text, max_tokens=limit)
            tokenize.append(done.timing.tokenize_ms)
            inference.append(done.timing.inference_ms)
            tokens = len(done.encodings[0].ids)
        cpu_ms = (time.process_time() - cpu) * 1e3 - sum(tokenize)
        return {
            "tokens": tokens,
            "tokenize_ms": tokenize,
            "inference_ms": inference,
            "cpu_ms": max(cpu_ms, 0.0),
            "peak_rss_mb": peak_rss_bytes() / 1e6,
        }


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
