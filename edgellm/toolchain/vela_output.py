"""Reads what Vela prints and its summary. Text in, values out; nothing is run here."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from edgellm.errors import EdgellmError

_REFUSED = re.compile(r"^Warning \(supported operators\) operator: (?P<operator>\S+), ofm: '(?P<output>.*)'$")
_REASON = "Reason: "
_KIB = 1024


@dataclass(frozen=True)
class Refused:
    """An operator that Vela left on the CPU, as it stands in the log.

    Attributes:
        operator: TFLite's name of it.
        output: name of the tensor that it writes.
        cause: the reason and the rule that it breaks, one line.

    """

    operator: str
    output: str
    cause: str


@dataclass(frozen=True)
class Summary:
    """One row of the summary. Bytes of each memory, as planned; the time is an estimate."""

    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    macs: int
    clock_mhz: float
    estimated_ms: float


def read_refused(printed: str) -> list[Refused]:
    """Return the operators that Vela says it leaves on the CPU, in its order.

    A block is the operator, a line `Reason: ...`, then at most some lines of the rule, and ends with an empty line.
    """
    found: list[Refused] = []
    lines = iter(printed.splitlines())
    for line in lines:
        match = _REFUSED.match(line.strip())
        if match is None:
            continue
        cause = []
        for more in lines:
            if not more.strip():
                break
            cause.append(more.strip().removeprefix(_REASON).rstrip("."))
        found.append(Refused(match["operator"], match["output"], "; ".join(cause) or "Vela gives no reason"))
    return found


def read_summary(text: str) -> Summary:
    """Return the one row of a summary; its memory columns are in KiB, its time in seconds and its clock in Hz.

    Raises:
        EdgellmError: a column is missing or holds no number, or there is no row: another version of Vela wrote it.

    """
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} rows")
        row = {key: value for key, value in rows[0].items() if key is not None}
        return Summary(
            sram_bytes=_bytes(row["sram_memory_used"]),
            dram_bytes=_bytes(row["dram_memory_used"]),
            flash_bytes=_bytes(row["on_chip_flash_memory_used"]) + _bytes(row["off_chip_flash_memory_used"]),
            macs=int(row["nn_macs"]),
            clock_mhz=float(row["core_clock"]) / 1e6,
            estimated_ms=float(row["inference_time"]) * 1e3,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EdgellmError(f"Vela's summary can't be read: {error}. edgellm knows the pinned version's.") from None


def _bytes(kib: str) -> int:
    return round(float(kib) * _KIB)
