"""The footer and the page headers of a Parquet file, read without any of its values.

PyArrow shows the footer but not the headers of the pages, by which it takes memory, and its process ends at a footer
that contradicts itself. So both are read here, and compared, before PyArrow sees them. They are structs of Thrift's
compact protocol; https://parquet.apache.org/docs/file-format/metadata lists their fields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from embedline.errors import DataError

MAGIC = b"PAR1"
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # types of pages
_DETAILS = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}  # field with what a page of the type is like
_DEPTH = 20  # structs inside of each other, and columns inside of each other


@dataclass(frozen=True)
class Page:
    """A page: its type, bytes once it is decompressed, number of values, and their encoding."""

    kind: int
    size: int
    values: int
    encoding: int


@dataclass(frozen=True)
class Chunk:
    """The values of a column in a row group: how many, and the bytes of the file in which they lie."""

    values: int
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The footer.

    Attributes:
        leaves: columns that hold values, by their path; a column that is no struct or list has a path of one name.
        rows: rows of each row group.
        chunks: of each row group, one for each of ``leaves``.
    """

    leaves: tuple[tuple[str, ...], ...]
    rows: tuple[int, ...]
    chunks: tuple[tuple[Chunk, ...], ...]


def read_layout(body: bytes) -> Layout:
    """The footer of a file; raise a DataError where it is broken or contradicts itself."""
    if len(body) < 12 or not body.startswith(MAGIC) or not body.endswith(MAGIC):
        _broken("it does not begin and end with PAR1")
    footer = len(body) - 8 - footer_length(body)
    if footer < len(MAGIC):
        _broken("its footer is longer than the file")
    fields = _Thrift(body, footer).read_struct()[0]
    leaves = _leaves(_structs(fields.get(2)))
    groups = _structs(fields.get(4, []))
    chunks = tuple(_chunks(group, leaves, footer) for group in groups)
    return Layout(leaves, tuple(_natural(group.get(3)) for group in groups), chunks)


def footer_length(body: bytes) -> int:
    """Bytes of the footer, as the last bytes of the file have it."""
    return int.from_bytes(body[-8:-4], "little")


def read_pages(body: bytes, chunk: Chunk) -> Iterator[Page]:
    """The pages of data and dictionaries of a chunk."""
    place = chunk.start
    while place < chunk.end:
        header, place = _Thrift(body, place).read_struct()
        kind, size, length = (_natural(header.get(field)) for field in (1, 2, 3))
        details = header.get(_DETAILS.get(kind, -1))
        if isinstance(details, dict):
            encoding = details.get(4 if kind == DATA_V2 else 2)
            yield Page(kind, size, _natural(details.get(1)), _natural(encoding))
        elif kind in _DETAILS:
            _broken("a page says nothing about its values")
        place += length
    if place != chunk.end:
        _broken("a page ends outside of its column")


def _leaves(elements: Sequence[dict[int, Any]]) -> tuple[tuple[str, ...], ...]:
    """Paths of the columns from the elements of the schema, which are a tree in depth-first order."""
    if not elements:
        _broken("it has no schema")
    found: list[tuple[str, ...]] = []
    open_ = [((), _natural(elements[0].get(5, 0)))]  # path of each parent, and how many children are still to come
    for element in elements[1:]:
        while open_ and open_[-1][1] == 0:
            open_.pop()
        if not open_ or len(open_) > _DEPTH:
            _broken("its schema is no tree of columns, or too deep")
        parent, left = open_[-1]
        open_[-1] = (parent, left - 1)
        path: Any = (*parent, _text(element.get(4)))
        if children := _natural(element.get(5, 0)):
            open_.append((path, children))
        else:
            found.append(path)
    if any(left for _, left in open_):
        _broken("its schema lacks columns")
    return tuple(found)


def _chunks(group: dict[int, Any], leaves: Sequence[tuple[str, ...]], footer: int) -> tuple[Chunk, ...]:
    found = []
    columns = _structs(group.get(1))
    if len(columns) != len(leaves):
        _broken("a row group has other columns than the schema")
    for column, leaf in zip(columns, leaves, strict=True):
        data = column.get(3)
        if not isinstance(data, dict) or 1 in column:  # encrypted, or in another file
            _broken("a column lies elsewhere")
        path = data.get(3)
        if not isinstance(path, list) or tuple(map(_text, path)) != leaf:
            _broken("a row group has other columns than the schema")
        start, dictionary = _natural(data.get(9)), _natural(data.get(11, 0))
        start = dictionary if 0 < dictionary < start else start
        end = start + _natural(data.get(7))
        if not len(MAGIC) <= start <= end <= footer:
            _broken("a column lies outside of it")
        found.append(Chunk(_natural(data.get(5)), start, end))
    return tuple(found)


def _broken(reason: str) -> NoReturn:
    raise DataError(f"the body is no Parquet file: {reason}")


def _natural(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        _broken("a number is missing or negative")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        _broken("a name is missing")
    return value.decode()


def _structs(values: Any) -> list[dict[int, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        _broken("a list is missing in the footer")
    return values


class _Thrift:
    """Reads structs of Thrift's compact protocol."""

    def __init__(self, body: bytes, place: int) -> None:
        self._body, self._place = body, place

    def read_struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Values by the numbers of their fields, and where the struct ends."""
        if depth > _DEPTH:
            _broken("it is nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while byte := self._byte():
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            kind = byte & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)  # a boolean is its type
        return found, self._place

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:  # a double
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            size = self._byte()
            length = size >> 4 if size >> 4 < 15 else self._varint()
            if length > len(self._body) - self._place:  # each value takes a byte at least
                _broken("a list is longer than the file")
            return [self._value(size & 15, depth + 1) for _ in range(length)]
        if kind == 12:
            return self.read_struct(depth + 1)[0]
        _broken("a field has an unknown type")

    def _bytes(self, length: int) -> bytes:
        self._place += length
        if self._place > len(self._body):
            _broken("it is cut off")
        return self._body[self._place - length : self._place]

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        _broken("a number is too long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
