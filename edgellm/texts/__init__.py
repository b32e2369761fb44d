"""The project's own texts, written for it: golden cases, calibration, and the prose that latency is measured on."""

from __future__ import annotations

import importlib.resources


def default_texts(name: str) -> list[str]:
    """Return the project's own texts: "golden", "calibration" or "bench". One per line, whatever else is in it."""
    data = importlib.resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in data.split("\n") if line]
