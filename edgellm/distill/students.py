"""Students: what one-pass models are made of, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CTC: dict[str, dict[str, Any]] = {
    "ctc-tiny": {
        "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2,
        "num_slot_layers": 2, "conditioned_layers": [1],
    },
    "ctc-small": {
        "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_hidden_layers": 3,
        "num_slot_layers": 3, "conditioned_layers": [1, 2],
    },
    "ctc-flat": {
        "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_hidden_layers": 4,
        "num_slot_layers": 0, "supervised_layers": [2],
        "hidden_dropout_prob": 0.05, "attention_probs_dropout_prob": 0.05,
    },
    "ctc-shared": {
        "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 3,
        "num_slot_layers": 3, "conditioned_layers": [1, 2], "share_layers": True,
    },
    "ctc-base": {
        "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_hidden_layers": 4,
        "num_slot_layers": 4, "conditioned_layers": [1, 2, 3],
    },
}  # fmt: skip
"""Shapes of CtcForSeq2Seq. "flat" has layers over tokens alone: two fifths of what "small" computes. "shared" has one layer's
weights in each stack (ALBERT): fewer bytes, the same time."""

MASK_PREDICT: dict[str, dict[str, Any]] = {
    "mask-tiny": {
        "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2, "num_slot_layers": 2,
    },
    "mask-small": {
        "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_hidden_layers": 3, "num_slot_layers": 3,
    },
}  # fmt: skip
"""Shapes of MaskPredictForSeq2Seq."""

STUDENTS = {**CTC, **MASK_PREDICT}
"""Shapes by name."""

CTC_TYPE, MASK_PREDICT_TYPE = "edgellm-ctc", "edgellm-mask-predict"
"""What config.json calls them."""


def type_of(student: str | Path) -> str | None:
    """Return the `model_type` of a student by name, or of a model's folder; None where neither is there."""
    if str(student) in STUDENTS:
        return CTC_TYPE if str(student) in CTC else MASK_PREDICT_TYPE
    found = _config(Path(student)).get("model_type")
    return found if isinstance(found, str) else None


def teaches_sequences(folder: Path) -> bool:
    """Tell whether the model in a folder makes a text of another."""
    return type_of(folder) in (CTC_TYPE, MASK_PREDICT_TYPE) or _config(folder).get("is_encoder_decoder") is True


def _config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
