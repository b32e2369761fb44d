"""Keeps what libraries say about themselves out of the way: precisely while converting, wholly while they are imported."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Ignore warnings of packages about their own code, and put the root logger's level back.

    ExecuTorch reads its resources in a deprecated way; Vulkan's partitioner sets the root logger's level.
    """
    root = logging.getLogger()
    level = root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


@contextmanager
def quietly() -> Iterator[None]:
    """Ignore what converters warn of on every model; anything else passes.

    A bound of infinity, or 3e38, is infinity in 16 bits: that of `clamp(min=...)`. A row of zeros has
    the scale 0, and is zero whatever numbers it gets by dividing by that. torch's decompositions warn of torch's
    own classes, and coremltools of its own functions and of the folder that it leaves to be cleaned up; Vulkan reads
    its schema in a deprecated way.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning, r"coremltools\.")
        warnings.filterwarnings("ignore", "invalid value encountered in", RuntimeWarning, r"coremltools\.optimize")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        warnings.filterwarnings("ignore", "Implicitly cleaning up <TemporaryDirectory", ResourceWarning)
        warnings.filterwarnings("ignore", "read_binary is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "Function _TORCH_OPS_REGISTRY", DeprecationWarning)
        yield
