"""Settings of every test: no network, and a cache of the session's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it; EDGELLM_TEST_CACHE outlives a session.

    Tests that run side by side share it, as a user's commands do.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", os.environ.get("EDGELLM_TEST_CACHE") or str(shared / "cache"))
        yield
