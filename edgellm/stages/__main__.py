"""`python -m edgellm.stages` runs one job: everything that needs torch, in a process that may crash or run out of memory.

A job is one JSON line on standard input; its result is `result.json` in the job's folder. When the parent goes away,
standard input ends and so does the job. Standard output and error are the build's log.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from edgellm.core import strict
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Tuning
from edgellm.core.target import Target
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, first_line, to_wire
from edgellm.stages.source import SourceModel


def main() -> int:
    """Run the job on standard input."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(job["folder"])
    try:
        result = {"ok": _run(job, folder)}
    except EdgellmError as error:
        result = {"error": to_wire(error)}
    except ModuleNotFoundError as error:
        traceback.print_exc()
        missing = MissingDependencyError(
            f"Building needs {error.name}.", hint="Install it with: pip install 'edgellm[build]'"
        )
        result = {"error": to_wire(missing)}
    except MemoryError:
        traceback.print_exc()
        result = {"error": to_wire(InputError("The model is too large for this machine's memory."))}
    except OSError as error:
        traceback.print_exc()
        result = {"os_error": {"errno": error.errno, "message": str(error)}}
    except Exception as error:  # converters raise anything; the log has the traceback
        traceback.print_exc()
        what = " ".join(name for name in (job["kind"], job.get("format")) if name)
        failed = EdgellmError(f"{what} failed with {type(error).__name__}: {first_line(error)}.")
        result = {"error": to_wire(failed)}
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.rename(folder / "result.json")
    return 0


def _run(job: dict[str, Any], folder: Path) -> object:
    if job["kind"] == "describe":
        from edgellm.stages.load import describe_factory

        return describe_factory(job["factory"])
    import torch

    torch.set_num_threads(job["threads"])
    source = strict.read(SourceModel, job["source"], "job: source")
    if job["kind"] == "reference":
        from edgellm.stages.reference import write_reference

        return write_reference(source, job["golden"], job["labelled"], job["max_tokens"], folder)
    if job["kind"] == "trim":
        from edgellm.stages.trim import write_trimmed

        return strict.plain(write_trimmed(source, job["texts"], job["golden"], folder))
    if job["kind"] == "sensitivity":
        from edgellm.stages.sensitivity import measure

        found = measure(
            source, job["scheme"], job["format"], job["texts"], ranges=job["ranges"], max_tokens=job["max_tokens"]
        )
        return strict.plain(found)
    if job["kind"] == "rank":
        from edgellm.stages.search_rank import rank

        layers = rank(
            source, job["coarse"], job["format"], job["texts"], ranges=job["ranges"], max_tokens=job["max_tokens"]
        )
        return {"layers": strict.plain(tuple(layers))}
    from edgellm.stages.lower import lower

    target = strict.read(Target, job["target"], "job: target")
    lowered = lower(
        source,
        job["format"],
        strict.read(Precisions, {"default": job["scheme"], "layers": job.get("layers", ())}, "job: layers"),
        target,
        tuple(job["buckets"]),
        folder,
        calibration=job["calibration"],
        ranges=job["ranges"],
        golden=job["golden"],
        tuning=strict.read(Tuning, job["tuning"], "job: tuning"),
    )
    return strict.plain(lowered)


def _end_with_parent() -> None:
    """Wait for the end of standard input, then leave at once: nobody wants the result."""
    sys.stdin.read()
    os._exit(1)


sys.exit(main())
