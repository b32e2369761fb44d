"""Instructions that one inference takes on an emulated CPU: a cost, never a latency."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InstructionCount:
    """What `bench` reports for one artifact, one length and one emulated CPU.

    An emulator says how much work there is and nothing about time: caches, pipelines and clocks are not emulated.

    Attributes:
        id: the artifact.
        format: its format.
        scheme: what is quantized how.
        tokens: length of the text, special tokens included.
        cpu: the emulated CPU model.
        instructions: Arm instructions of one inference, warm, on one thread.
        of_fp32: what that is of the fp32 artifact of the same model and format, where one was counted beside it.

    """

    id: str
    format: str
    scheme: str
    tokens: int
    cpu: str
    instructions: int
    of_fp32: float | None = None
