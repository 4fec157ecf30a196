"""Forms with files (`multipart/form-data`, RFC 7578), by which some vendors hand over a mail.

They are read in memory, and each part is copied once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from python_multipart.multipart import MultipartParser, parse_options_header

from app.providers.base import Callback

#: Far more than any vendor sends. A part costs a kilobyte of memory, also an empty one.
MOST_PARTS = 5_000


@dataclass(frozen=True, slots=True)
class FormPart:
    """One field of a form. A part with a `file_name` is a file; `content_type` is empty where it is missing."""

    name: str
    content: bytes = field(repr=False)
    file_name: str | None = None
    content_type: str = ""


def parts_of(callback: Callback) -> list[FormPart]:
    """The fields of a form in either encoding, in order. Raises `ValueError` for any other or an incomplete body."""
    kind, options = parse_options_header(callback.header("content-type"))
    if kind == b"application/x-www-form-urlencoded":
        fields = callback.form("surrogateescape")  # a raw mail holds bytes in any charset
        return [FormPart(name, value.encode("utf-8", "surrogateescape")) for name, value in fields]
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ValueError("This is not a form.")
    return list(_multipart(callback.body, options[b"boundary"]))


def _multipart(body: bytes, boundary: bytes) -> Iterator[FormPart]:
    reader = _Reader(body)
    reader.read(boundary)
    if not reader.is_complete:
        raise ValueError("The form breaks off before its end.")
    for headers, start, end in reader.parts:
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        name, file_name = options.get(b"name"), options.get(b"filename")
        if name is not None:
            yield FormPart(
                name.decode("utf-8", "replace"),
                body[start:end],
                file_name.decode("utf-8", "replace") if file_name is not None else None,
                headers.get(b"content-type", b"").decode("latin-1"),
            )


class _Reader:
    """Records the places of the parts in a form. The body is parsed in one piece, so each part is, too."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._place = 0, 0
        self.parts: list[tuple[dict[bytes, bytes], int, int]] = []
        self.is_complete = False

    def read(self, boundary: bytes) -> None:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._value,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )
        parser.write(self._body)

    def _begin(self) -> None:
        if len(self.parts) == MOST_PARTS:
            raise ValueError(f"The form has more than {MOST_PARTS} parts.")
        self._headers, self._place = {}, (0, 0)

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name = data[start:end].lower()

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._name] = data[start:end]

    def _data(self, data: bytes, start: int, end: int) -> None:
        first = start if self._place == (0, 0) else self._place[0]
        self._place = first, end

    def _end(self) -> None:
        self.parts.append((self._headers, *self._place))

    def _finish(self) -> None:
        self.is_complete = True


class FileReader:
    """Reads the one file of a form piece by piece; fields without a file are skipped.

    `name` and `content_type` are known when `is_complete` is. Raises `ValueError` for a content type without a
    boundary, a form that can't be read, and a second file.
    """

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        if not (boundary := options.get(b"boundary")):
            raise ValueError("A form names its boundary in the Content-Type.")
        self.name: str | None = None
        self.content_type = ""
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header = b""
        self._value = b""
        self._is_file = False
        self._parts = 0
        self._pieces: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def read(self, received: bytes) -> list[bytes]:
        """The pieces of the file in a further part of the body."""
        self._parser.write(received)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise ValueError(f"The form has more than {MOST_PARTS} parts.")
        self._headers, self._is_file = {}, False

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._is_file = b"filename" in options
        if self._is_file and self.name is not None:
            raise ValueError("A form holds one file.")
        if self._is_file:
            self.name = options[b"filename"].decode("utf-8", "replace")
            self.content_type = self._headers.get(b"content-type", b"").decode("latin-1")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])

    def _on_end(self) -> None:
        self.is_complete = True
