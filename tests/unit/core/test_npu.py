"""Accelerators: names, what is assumed where nothing is said, and what a family can't do."""

from __future__ import annotations

import pytest

from edgellm.core.npu import Accelerator


def test_what_vela_assumes_is_named() -> None:
    assert Accelerator.of("ethos-u55-128") == Accelerator("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram")
    assert (
        Accelerator.of("ethos-u85-512", "Ethos_U85_SYS_Flash_High", "Shared_Sram").system == "Ethos_U85_SYS_Flash_High"
    )


@pytest.mark.parametrize("name", ["xnnpack", "ethos-u85", "ethos-u75-256", "ethos-u85-512 "])
def test_what_is_no_ethos_u_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is none of ethos-u55"):
        Accelerator.of(name)


def test_only_u85_multiplies_16_bits() -> None:
    bits = [Accelerator.of(f"ethos-{name}").matmul_bits for name in ("u55-128", "u65-256", "u85-512")]
    assert bits == [8, 8, 16]
