"""Reads numbers and strings at offsets of a file that may be anything: bounds are checked, and the work is limited."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellm.errors import InputError

_MOST_READS = 2_000_000
"""A file of a real model takes some thousands. Offsets that point back and forth can ask for any number."""


class DamagedError(ValueError):
    """The bytes are not what the format says; the message says where."""


class Reader:
    """Little-endian numbers and byte strings of an open file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size
        self._left = _MOST_READS

    def at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`.

        Raises:
            DamagedError: they do not lie within the file, or too many were asked for.

        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise DamagedError(f"it ends at byte {self.size}, and should go on to {offset + count}")
        self._left -= 1
        if self._left < 0:
            raise DamagedError("its offsets lead round and round")
        data = os.pread(self._descriptor, count, offset)
        if len(data) != count:
            raise DamagedError("it became shorter while it was read")
        return data

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Return numbers, laid out as in `struct` without padding."""
        return struct.unpack(f"<{layout}", self.at(offset, struct.calcsize(f"<{layout}")))

    def number(self, layout: str, offset: int) -> int:
        """Return one number."""
        return self.unpack(layout, offset)[0]

    def text(self, offset: int, most: int = 4096) -> str:
        """Return the text that ends with a zero byte."""
        data = self.at(offset, max(0, min(most, self.size - offset)))
        end = data.find(b"\0")
        if end < 0:
            raise DamagedError(f"the text at byte {offset} has no end")
        return data[:end].decode("utf-8", "backslashreplace")


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """Open a regular file for reading; pipes and devices are refused, not waited for.

    Raises:
        InputError: it is missing, unreadable, no regular file, or empty.

    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path} can't be read: {reason}.", hint="Check the path and its permissions.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file.", hint="Name a file, a bundle or a folder.")
        if status.st_size == 0:
            raise InputError(f"{path} is empty.", hint="Copy or build it again.")
        yield Reader(descriptor, status.st_size)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.", hint="Copy or build it again.") from None
    finally:
        os.close(descriptor)
