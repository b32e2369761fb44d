"""Saved: a Hugging Face dataset on disk, as `Dataset.save_to_disk` writes it, read as rows of JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from edgellm.errors import InputError, MissingDependencyError


def read_saved(path: Path) -> list[dict[str, object]]:
    """Return the rows of a saved dataset; class labels are their names.

    Raises:
        InputError: there is no dataset, or more than one split, or one that is damaged or holds values that JSON has not.
        MissingDependencyError: datasets is not installed.

    """
    if (path / "dataset_dict.json").is_file():
        path = _only_split(path)
    if not (path / "dataset_info.json").is_file() or not (path / "state.json").is_file():
        raise InputError(
            f"{path} can't be read: it is a folder without a saved dataset.",
            hint="Dataset.save_to_disk writes one; a file of labelled data is named itself, not its folder.",
        )
    features, rows = _load(path)
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            try:
                row[name] = _named(value, features[name])
            except ValueError as error:
                raise InputError(f"{path} row {number}, column {name}: {error}.") from None
    return rows


def _only_split(path: Path) -> Path:
    """Return the folder of the one split, or refuse to choose."""
    try:
        splits = json.loads((path / "dataset_dict.json").read_bytes())["splits"]
        names = sorted(splits)
        folders = {name: path / name for name in names if name == Path(name).name}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} can't be read: dataset_dict.json names no splits ({error}).") from None
    if len(folders) != 1:
        raise InputError(
            f"{path} has {len(names)} splits: {', '.join(names)}.",
            hint=f"Name one, for example {path / names[0]}" if names else "Save a dataset that has one.",
        )
    return folders[names[0]]


def _load(path: Path) -> tuple[Mapping[str, object], list[dict[str, object]]]:
    """Return features and rows of one saved dataset, every buffer checked: the file may come from anywhere."""
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading a saved dataset needs {error.name or 'datasets'}.",
            hint="Install it with: pip install 'edgellm[eval]'",
        ) from None
    try:
        if json.loads((path / "state.json").read_bytes())["_data_files"] == []:
            return {}, []  # no row; datasets writes that, and can't read it
        saved = Dataset.load_from_disk(str(path))
        saved.data.validate(full=True)
        _check_features(saved.features)
        return saved.features, list(saved.with_format(None))
    except InputError:
        raise
    except Exception as error:  # whatever arrow, JSON and the features' classes raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} can't be read as a saved dataset: {type(error).__name__}: {reason}.") from None


def _check_features(features: Mapping[str, object]) -> None:
    """Refuse columns that JSON has no values for, before anything decodes an image to find out."""
    from datasets import ClassLabel, LargeList, List, Value

    def plain(feature: object) -> bool:
        if isinstance(feature, dict):
            return all(map(plain, feature.values()))
        return (
            plain(feature.feature)
            if isinstance(feature, (List, LargeList))
            else isinstance(feature, (ClassLabel, Value))
        )

    strange = [name for name, feature in features.items() if not plain(feature)]
    if strange:
        kind = type(features[strange[0]]).__name__
        raise InputError(
            f"The dataset's column {strange[0]} is of kind {kind}; texts, numbers and labels can be read.",
            hint=f'Remove it with: dataset.remove_columns(["{strange[0]}"])',
        )


def _named(value: object, feature: object) -> object:
    """Return a value with class labels as names, checking that JSON has such a value."""
    from datasets import ClassLabel

    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        return str(feature.int2str(value))
    if isinstance(feature, dict):
        parts = cast(Mapping[str, object], value)
        return {name: _named(parts[name], each) for name, each in feature.items()}
    if isinstance(value, list):
        return [_named(item, feature.feature) for item in value]  # type: ignore[attr-defined]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    if not isinstance(value, (str, bool, int, float)):
        raise ValueError(f"a {type(value).__name__} is neither text, number nor label")
    return value
