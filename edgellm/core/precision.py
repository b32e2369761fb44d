"""Precisions: which scheme each layer of a model has.

A build with one scheme for all layers has `Precisions(default)`. `--scheme mixed` reads them from a file:

    default = "int8-dynamic"

    [layers]
    "model.embeddings.word_embeddings" = "int4-dynamic"
    "model.encoder.layer.*.output.dense" = "int8-weight-only"
    "model.encoder.layer.0.*" = "fp32"

Layers are torch module names, as `edgellm sensitivity` prints them: linears, and embedding tables, of which only the
weights count. `*` stands for any characters. A full name goes before a pattern, and a later pattern before an earlier one.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.core import strict
from edgellm.core.scheme import MIXED, MIXING, SCHEMES, Scheme, Tuning, ensure_expressed
from edgellm.errors import InputError, UsageError, unknown


@dataclass(frozen=True)
class Precisions:
    """A scheme for each layer.

    Attributes:
        default: scheme of every layer that has none of its own.
        layers: names or patterns of layers with their schemes, in the file's order.

    """

    default: str
    layers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        named = [scheme for _, scheme in self.layers]
        for scheme in (self.default, *named):
            if scheme not in SCHEMES:
                raise unknown("scheme", scheme, SCHEMES)
        whole = [name for name in dict.fromkeys((*named, self.default)) if SCHEMES[name].whole]
        if named and whole:
            raise UsageError(
                f"{whole[0]} is of a whole model: one layer of it can't have another scheme.",
                hint=f"Layers take {', '.join(mixable())}.",
            )

    @property
    def name(self) -> str:
        """What artifacts call it: the scheme, or "mixed"."""
        return MIXED if self.layers else self.default

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The schemes that are named, the default first, each once."""
        return tuple(SCHEMES[name] for name in dict.fromkeys((self.default, *(scheme for _, scheme in self.layers))))

    @property
    def static(self) -> bool:
        """Whether activations of any layer have ranges that are calibrated on text."""
        return any(scheme.static for scheme in self.schemes)

    def calibrates(self, backend: str, tuning: Tuning | None = None) -> bool:
        """Tell whether lowering by a backend runs calibration texts; as it is tuned by default if None."""
        return any(scheme.calibrates(backend, tuning) for scheme in self.schemes)

    def of(self, layer: str) -> Scheme:
        """Return the scheme of a layer."""
        own = dict(self.layers).get(layer)
        if own is None:
            own = next((s for pattern, s in reversed(self.layers) if fnmatch.fnmatchcase(layer, pattern)), self.default)
        return SCHEMES[own]

    def is_static(self, layer: str) -> bool:
        """Tell whether what a layer reads has a calibrated range."""
        return self.of(layer).static

    def ensure_expressed(self, fmt: str, backends: Mapping[str, str]) -> None:
        """Check every scheme against the backend that writes a format.

        Args:
            fmt: the format.
            backends: of this and of the other formats that are built.

        Raises:
            UsageError: the backend can't express one (with the reason), or takes one scheme for the whole model.

        """
        if self.layers and backends[fmt] not in MIXING:
            raise UsageError(f"{fmt} can't express {MIXED}: its backend takes one scheme for the whole model.")
        for number, scheme in enumerate(self.schemes):
            if not (number and backends[fmt] in scheme.in_part):
                ensure_expressed(scheme, fmt, backends)

    def ensure_named(self, layers: Iterable[str]) -> None:
        """Check that each name and each pattern is that of a layer.

        Raises:
            UsageError: one isn't; the nearest name is in the message.

        """
        known = list(layers)
        for pattern, _ in self.layers:
            if pattern in known or any(fnmatch.fnmatchcase(name, pattern) for name in known):
                continue
            near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
            guess = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(
                f"The model has no layer '{pattern}'.{guess}",
                hint="'edgellm sensitivity' lists its layers with what each costs.",
            )


def mixable(backend: str | None = None) -> list[str]:
    """Return the names of the schemes that a single layer can have: by a backend that mixes them, or by any if None."""
    return [
        scheme.name
        for scheme in SCHEMES.values()
        if not scheme.whole and (backend is None or backend in (*scheme.backends, *scheme.in_part))
    ]


@dataclass(frozen=True)
class _File:
    """What a file of precisions holds."""

    default: str
    layers: Mapping[str, str] = field(default_factory=dict)


def parse_precisions(data: object, where: str) -> Precisions:
    """Return precisions from what `json.loads` or `tomllib.loads` returned.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type.
        UsageError: no such scheme, or one that no layer alone can have.

    """
    try:
        read = strict.read(_File, data, where)
    except strict.StrictError as error:
        raise InputError(
            f"{error}.", hint='It holds: default = "SCHEME", and [layers] with "NAME" = "SCHEME".'
        ) from None
    return Precisions(read.default, tuple(read.layers.items()))


def read_precisions(path: str | os.PathLike[str]) -> Precisions:
    """Return the precisions in a TOML file, or in a JSON file if its name ends in .json.

    Raises:
        InputError: it can't be read, or holds something else.
        UsageError: no such scheme, or one that no layer alone can have.

    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is no UTF-8 text"
        raise InputError(f"The file of layers {file} can't be read: {reason}.") from None
    try:
        data = json.loads(text, object_pairs_hook=_once) if file.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file of layers {file} is no sound {file.suffix[1:] or 'TOML'}: {error}.") from None
    return parse_precisions(data, str(file))


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object, in which no key may stand twice, as in TOML."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' stands twice")
    return made
