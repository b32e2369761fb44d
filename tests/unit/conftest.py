"""Bundles that tests of several modules read. Whoever changes a file makes a bundle of their own with `tiny_bundle`."""

from __future__ import annotations

import pytest

from edgellm.runtime.bundle import Bundle
from tests.tiny import tiny_bundle


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a feature-extraction bundle; not to be changed."""
    return tiny_bundle(tmp_path_factory.mktemp("embedder") / "bundle")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a text-classification bundle; not to be changed."""
    return tiny_bundle(tmp_path_factory.mktemp("classifier") / "bundle", "text-classification")
