"""What transformers' own pipeline answers: `python -m tests.oracle.pipelines TASK MODEL`.

Reads a JSON list of calls, {"args": [...], "kwargs": {...}}, and prints the list of their results. In a process of its
own, because transformers and torch warn when they are imported, and warnings are errors in tests.
"""

from __future__ import annotations

import json
import sys

from transformers import pipeline


def main(task: str, model: str) -> None:
    """Answer the calls on standard input."""
    calls = json.load(sys.stdin)
    oracle = pipeline(task, model=model, device="cpu")
    answers = [oracle(*call.get("args", []), **call.get("kwargs", {})) for call in calls]
    # Some scores are numpy's.
    json.dump(answers, sys.stdout, default=float)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
