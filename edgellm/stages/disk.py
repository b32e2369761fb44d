"""Disk: a full or unwritable one is an error that says what to do, and never a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from edgellm.errors import DeviceError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(unchanged: str) -> Iterator[None]:
    """Turn what the system refuses into an error.

    Args:
        unchanged: a sentence that says what is as it was: "No bundle was changed."

    Raises:
        DeviceError: the disk is full, or the system refused something.

    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            raise DeviceError(
                f"There is no room on the disk{where}: {error.strerror}.",
                hint=f"Free some, or choose another --out; EDGELLM_CACHE moves the cache. {unchanged}",
            ) from None
        raise DeviceError(f"The system refused{where}: {error.strerror or error}.", hint=unchanged) from None
