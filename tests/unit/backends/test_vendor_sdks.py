"""Delegates of vendors whose SDK is not there say which, and where it is from."""

from __future__ import annotations

import sys
import types

import pytest

from edgellm.backends._vendor_sdks import VENDOR_SDKS, ensure_sdk
from edgellm.errors import MissingDependencyError, UsageError


@pytest.mark.parametrize("delegate", sorted(VENDOR_SDKS))
def test_what_is_missing_is_named_with_its_source(delegate: str) -> None:
    sdk = VENDOR_SDKS[delegate]
    with pytest.raises(MissingDependencyError) as caught:
        ensure_sdk(delegate)
    message = str(caught.value)
    assert f"The delegate {delegate} ({sdk.chips}) needs {sdk.name}, and there is no module {sdk.modules[0]}" in message
    assert f"Get it from {sdk.source}" in message
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("delegate", ["xnnpack", "coreml", "vulkan"])
def test_delegates_without_one_pass(delegate: str) -> None:
    ensure_sdk(delegate)


def test_an_sdk_that_is_there_is_not_used_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    found = types.ModuleType("eiq_neutron_sdk")
    found.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "eiq_neutron_sdk", found)
    with pytest.raises(UsageError, match="is installed, and edgellm does not lower for neutron yet"):
        ensure_sdk("neutron")
