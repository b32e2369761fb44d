"""Vela's words become values. The texts are what Vela 5.2.0 printed and wrote for all-MiniLM-L6-v2 at 64 tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from edgellm.errors import EdgellmError
from edgellm.toolchain.vela_output import Refused, read_refused, read_summary

RECORDED = Path(__file__).with_name("vela")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def test_every_operator_that_stays_outside_is_read_with_its_cause() -> None:
    found = read_refused(recorded("minilm_u55_128.txt"))
    assert [item.operator for item in found] == [
        "QUANTIZE", "CAST", "QUANTIZE", "EMBEDDING_LOOKUP", "QUANTIZE", "EMBEDDING_LOOKUP",
    ]  # fmt: skip
    assert found[0] == Refused(
        "QUANTIZE", "model;122_quantized",
        'Operation has tensor with unsupported DataType Float32 (model;122); Feature-map dataTypes must be one of {"INT16", '
        '"INT32", "INT64", "INT8", "UINT8"}',
    )  # fmt: skip
    assert found[1] == Refused("CAST", "model;122", "Unsupported opType")


def test_matmuls_of_16_bits_are_refused_by_u65() -> None:
    found = read_refused(recorded("int16_matmul_u65_256.txt"))
    assert Counter(item.operator for item in found)["BATCH_MATMUL"] == 13
    causes = {item.cause for item in found if item.operator == "BATCH_MATMUL"}
    assert causes == {
        "Matmul with unsupported IFM type; IF Matmul or (FC with dynamic weights): IFM precision must be Int8"
    }
    assert "DIV" in {item.operator for item in found}


def test_an_operator_without_a_reason_is_still_there() -> None:
    assert read_refused("Warning (supported operators) operator: DIV, ofm: 'a'\n\nNetwork summary\n") == [
        Refused("DIV", "a", "Vela gives no reason")
    ]


def test_nothing_refused_is_nothing() -> None:
    assert read_refused("Network summary for x\nCPU operators = 0 (0.0%)\n") == []


def test_a_summary_with_flash_is_read_in_bytes_and_milliseconds() -> None:
    found = read_summary(recorded("minilm_u55_128.csv"))
    assert (found.sram_bytes, found.dram_bytes) == (round(712.375 * 1024), 0)
    assert found.flash_bytes == round(10003.5625 * 1024)
    assert found.clock_mhz == 500
    assert found.estimated_ms == pytest.approx(90.114118)
    assert found.macs == 701719616


def test_a_summary_with_dram_is_read_in_bytes_and_milliseconds() -> None:
    found = read_summary(recorded("minilm_u85_512.csv"))
    assert (found.sram_bytes, found.flash_bytes) == (round(294.125 * 1024), 0)
    assert found.dram_bytes == round(10193.046875 * 1024)
    assert found.clock_mhz == 1000
    assert found.estimated_ms == pytest.approx(9.116121)


@pytest.mark.parametrize(
    "text", ["", "experiment,network\n", recorded("minilm_u55_128.csv").replace("inference_time", "time"),
             recorded("minilm_u55_128.csv").replace("701719616", "many")],
    ids=["empty", "no row", "no column", "no number"],
)  # fmt: skip
def test_another_summary_is_refused(text: str) -> None:
    with pytest.raises(EdgellmError, match="Vela's summary can't be read"):
        read_summary(text)
