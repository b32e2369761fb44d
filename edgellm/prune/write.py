"""Write: a pruned model's folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.distill.pairs import TARGET
from edgellm.errors import UsageError
from edgellm.stages.put import check_parent, put
from edgellm.stages.source import SourceModel

if TYPE_CHECKING:
    from torch import nn

RECORD = "pruning.json"
"""What was removed and what it changed, in the folder."""


def check_out(out: Path) -> None:
    """Check that a folder may be written to `out`: a new one, or an empty one.

    Raises:
        UsageError: something else is there, or nothing can be written.

    """
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} exists already, and is left alone.", hint="Choose another --out.")
    check_parent(out)


def write_model(model: nn.Module, source: SourceModel, folder: Path) -> None:
    """Write a model into a new folder, with the source's tokenizer, pooling and licence.

    Args:
        model: of transformers.
        source: what it was made of.
        folder: that does not exist.

    """
    from edgellm.distill.shorten import save

    assert source.folder is not None
    folder.mkdir(parents=True)
    save(model, folder, like=Path(source.folder))
    (folder / "model.safetensors").chmod(0o644)
    write_beside(source, folder)


def write_beside(source: SourceModel, folder: Path) -> None:
    """Copy what belongs to a model and says nothing of its weights, and say where the model is from."""
    from edgellm.distill.shorten import copy_beside

    assert source.folder is not None
    for place in dict.fromkeys((Path(source.tokenizer).parent, Path(source.folder))):
        copy_beside(place, folder)
        if (place / TARGET).is_file():
            shutil.copyfile(place / TARGET, folder / TARGET)
    shutil.copyfile(source.tokenizer, folder / "tokenizer.json")
    (folder / "README.md").write_text(_card(source), encoding="utf-8")


def publish(folder: Path, out: Path, record: object) -> None:
    """Copy a finished folder to `out` in one step, with the record of what was done.

    Raises:
        UsageError: something else is there by now.
        OSError: the disk is full or can't be written to; `out` is as it was.

    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    put(folder, out, check=check_out)


def _card(source: SourceModel) -> str:
    front = f"---\nlicense: {source.licence}\n---\n" if source.licence else ""
    return (
        f"{front}# {source.name}, pruned\n\n"
        f"Made by edgellm of {source.name} (SHA-256 of its configuration, weights and tokenizer: `{source.sha256}`). "
        f"`{RECORD}` says what was removed and what that changed. Matrices are narrower than config.json says, each layer's by "
        "its own amount: `edgellm build` reads their widths from the weights.\n"
    )
