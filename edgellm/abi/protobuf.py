"""Messages of Protocol Buffers (protobuf.dev/programming-guides/encoding): enough to read a Core ML model without its package."""

from __future__ import annotations

from collections.abc import Iterator

from edgellm.abi.reader import DamagedError

_MOST_FIELDS = 5_000_000
_DEEPEST = 64


class Message:
    """One message. Fields are named by their number in the schema; one that is absent is 0, empty or no messages."""

    def __init__(self, data: memoryview, *, depth: int = 0, left: list[int] | None = None) -> None:
        if depth > _DEEPEST:
            raise DamagedError("its messages are nested too deep")
        self._depth = depth
        self._left = [_MOST_FIELDS] if left is None else left
        self._fields: dict[int, list[int | memoryview]] = {}
        where = 0
        while where < len(data):
            self._left[0] -= 1
            if self._left[0] < 0:
                raise DamagedError("it has too many fields")
            key, where = _varint(data, where)
            value, where = _value(data, where, key & 7)
            self._fields.setdefault(key >> 3, []).append(value)

    def number(self, field: int) -> int:
        """Return a number; the last one counts."""
        value = self._fields.get(field, [0])[-1]
        if not isinstance(value, int):
            raise DamagedError(f"field {field} is no number")
        return value

    def numbers(self, field: int) -> tuple[int, ...]:
        """Return a repeated integer, packed or not."""
        found: list[int] = []
        for value in self._fields.get(field, []):
            if isinstance(value, int):
                found.append(value)
                continue
            where = 0
            while where < len(value):
                number, where = _varint(value, where)
                found.append(number)
        return tuple(found)

    def text(self, field: int) -> str:
        """Return a string."""
        values = self._bytes(field)
        return bytes(values[-1]).decode("utf-8", "backslashreplace") if values else ""

    def texts(self, field: int) -> tuple[str, ...]:
        """Return repeated strings."""
        return tuple(bytes(value).decode("utf-8", "backslashreplace") for value in self._bytes(field))

    def has(self, field: int) -> bool:
        """Tell whether a field is there: which of several a message holds."""
        return field in self._fields

    def messages(self, field: int) -> Iterator[Message]:
        """Yield repeated messages."""
        for value in self._bytes(field):
            yield Message(value, depth=self._depth + 1, left=self._left)

    def message(self, field: int) -> Message:
        """Return a message; an empty one where there is none."""
        values = self._bytes(field)
        return Message(values[-1] if values else memoryview(b""), depth=self._depth + 1, left=self._left)

    def mapped(self, field: int) -> Iterator[tuple[str, Message]]:
        """Yield what a map with text keys holds."""
        for entry in self.messages(field):
            yield entry.text(1), entry.message(2)

    def _bytes(self, field: int) -> list[memoryview]:
        values = self._fields.get(field, [])
        if any(isinstance(value, int) for value in values):
            raise DamagedError(f"field {field} is a number")
        return [value for value in values if isinstance(value, memoryview)]


def _value(data: memoryview, where: int, kind: int) -> tuple[int | memoryview, int]:
    if kind == 0:
        return _varint(data, where)
    if kind in (1, 5):
        end = where + (8 if kind == 1 else 4)
        if end > len(data):
            raise DamagedError("a number goes on past the end")
        return int.from_bytes(data[where:end], "little"), end
    if kind == 2:
        size, where = _varint(data, where)
        if where + size > len(data):
            raise DamagedError("a field goes on past the end")
        return data[where : where + size], where + size
    raise DamagedError(f"a field has the unknown wire type {kind}")


def _varint(data: memoryview, where: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if where >= len(data) or shift > 63:
            raise DamagedError("a number has no end")
        byte = data[where]
        number |= (byte & 127) << shift
        where, shift = where + 1, shift + 7
        if byte < 128:
            return number, where
