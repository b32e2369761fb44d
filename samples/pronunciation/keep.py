"""Copies a model with its weights in fp16, half the bytes, as this folder keeps its teacher and its student.

Whoever reads them computes in fp32 (`edgellm build`, `edgellm distill`, autoregressive.py, race.py).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.errors import EdgellmError, InputError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
KEPT = ("config.json", "generation_config.json", "tokenizer.json", "target_tokenizer.json")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("to", type=click.Path(path_type=Path))
def keep(model: Path, to: Path) -> None:
    """Copy the MODEL's folder to the folder TO."""
    from safetensors.torch import load_file, save_file

    if not (model / WEIGHTS).is_file():
        raise InputError(f"{model} holds no {WEIGHTS}.", hint="Give the folder of a model that was trained.")
    if to.resolve() == model.resolve():
        raise InputError(f"{to} is the model itself.", hint="Name another folder.")
    weights = load_file(model / WEIGHTS)
    large = [name for name, value in weights.items() if value.is_floating_point() and not _fits(value)]
    if large:
        raise InputError(f"{large[0]} holds numbers that fp16 does not.", hint="Keep the model as it is.")
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    to.mkdir(parents=True, exist_ok=True)
    save_file(halved, to / WEIGHTS, metadata={"format": "pt"})
    for name in KEPT:
        if (model / name).is_file():
            shutil.copyfile(model / name, to / name)
    worst = max(float((value.float() - weights[name].float()).abs().max()) for name, value in halved.items())
    click.echo(f"{(to / WEIGHTS).stat().st_size / 1e6:.1f} MB of {len(halved)} tensors; rounded by {worst:.1e} at most")


def _fits(value: Tensor) -> bool:
    return bool(value.half().isfinite().all())


if __name__ == "__main__":
    try:
        keep()
    except EdgellmError as error:
        click.echo(f"keep: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
