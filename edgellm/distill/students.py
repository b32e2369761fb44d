"""Students: what a one-pass model is made of, by name."""

from __future__ import annotations

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
    "ctc-shared": {
        "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 3,
        "num_slot_layers": 3, "conditioned_layers": [1, 2], "share_layers": True,
    },
    "ctc-base": {
        "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_hidden_layers": 4,
        "num_slot_layers": 4, "conditioned_layers": [1, 2, 3],
    },
}  # fmt: skip
"""Shapes of CtcForSeq2Seq. "shared" has one layer's weights in each stack (ALBERT): fewer bytes, the same time."""
