"""Tables of a flatbuffer (flatbuffers.dev/internals): enough to read TFLite and ExecuTorch files without their packages."""

from __future__ import annotations

from collections.abc import Iterator

from edgellm.abi.reader import DamagedError, Reader


class Table:
    """One table. Fields are named by their number in the schema, from 0."""

    def __init__(self, reader: Reader, where: int) -> None:
        self._reader = reader
        self._where = where
        self._slots = where - reader.number("i", where)
        self._size = reader.number("H", self._slots)
        if self._size < 4:
            raise DamagedError(f"the table at byte {where} has no layout")

    def scalar(self, field: int, layout: str, default: int = 0) -> int:
        """Return a number; `default` where the writer left it out."""
        where = self._field(field)
        return self._reader.number(layout, where) if where else default

    def text(self, field: int) -> str:
        """Return a string; empty where there is none."""
        where = self._field(field)
        if not where:
            return ""
        start, count = self._vector_at(where)
        return self._reader.at(start, count).decode("utf-8", "backslashreplace")

    def count(self, field: int, width: int) -> int:
        """Return how many elements of `width` bytes a vector has; all of them lie within the file."""
        where = self._field(field)
        if not where:
            return 0
        start, count = self._vector_at(where)
        if start + count * width > self._reader.size:
            raise DamagedError(f"the vector at byte {start} should go on to byte {start + count * width}")
        return count

    def tables(self, field: int) -> Iterator[Table]:
        """Yield the tables of a vector."""
        count = self.count(field, 4)
        if count:
            start, _ = self._vector_at(self._field(field))
            for where in range(start, start + 4 * count, 4):
                yield Table(self._reader, where + self._reader.number("I", where))

    def table(self, field: int) -> Table | None:
        """Return a table; None where the writer left it out."""
        where = self._field(field)
        return Table(self._reader, where + self._reader.number("I", where)) if where else None

    def _field(self, field: int) -> int:
        """Return where a field is in the file; 0 where the table has none."""
        slot = 4 + 2 * field
        if slot + 2 > self._size:
            return 0
        offset = self._reader.number("H", self._slots + slot)
        return self._where + offset if offset else 0

    def _vector_at(self, where: int) -> tuple[int, int]:
        start = where + self._reader.number("I", where)
        return start + 4, self._reader.number("I", start)


def root(reader: Reader) -> Table:
    """Return the root table of a file."""
    return Table(reader, reader.number("I", 0))


def identifier(reader: Reader) -> str:
    """Return the four characters that name the schema."""
    return reader.at(4, 4).decode("ascii", "backslashreplace")
