"""A distillation of seconds in as many processes as there are: `python -m tests.small_distillation TEACHER DATA OUT`.

Each process prints what it returns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgellm.core import strict
from edgellm.core.training import Training
from edgellm.distill.encoders import distill_encoder

if __name__ == "__main__":
    teacher, data, out = map(Path, sys.argv[1:])
    training = Training(epochs=3, batch=8, rate=3e-3, threads=1)
    found = distill_encoder(teacher, out, student=1, data=data, training=training, max_tokens=24, quiet=True)
    print(json.dumps(strict.plain(found)), flush=True)
