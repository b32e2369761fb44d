"""A distillation of seconds in as many processes as there are: `python -m tests.small_distillation TEACHER DATA OUT [DEV]`.

With DEV, DATA and it are pairs, and the teacher answers token by token. Each process prints what it returns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgellm.core import strict
from edgellm.core.training import Training
from edgellm.distill.encoders import distill_encoder
from edgellm.distill.sequences import distill_sequences

TRAINING = Training(epochs=3, batch=8, rate=3e-3, threads=1)


def distil(teacher: Path, data: Path, out: Path, dev: Path | None = None) -> object:
    """Return what a distillation gave."""
    if dev is None:
        return distill_encoder(teacher, out, student=1, data=data, training=TRAINING, max_tokens=24, quiet=True)
    return distill_sequences(
        teacher=teacher, student="ctc-tiny", data=data, dev=dev, out=out, longest=24, beams=1, training=TRAINING, quiet=True
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(strict.plain(distil(*map(Path, sys.argv[1:])))), flush=True)
