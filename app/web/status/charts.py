"""Line charts of the last hour as SVG. They have no style of their own: classes refer to the style sheet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 8, 20
_STEPS = (1, 2, 2.5, 5, 10)
_GRID = 2
#: The lines that differ by colour and dashes.
MOST_LINES = 6

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart: a number for each minute, the newest last; None where there is none."""

    name: str
    numbers: Sequence[float | None]

    @property
    def newest(self) -> float | None:
        return next((number for number in reversed(self.numbers) if number is not None), None)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its lines. It begins at zero and reaches `top`, or as high as its lines, and `least` at least."""

    title: str
    lines: Sequence[Line]
    write: Format
    top: float | None = None
    least: float = 0.0

    @property
    def legend(self) -> list[tuple[int, str, str]]:
        """The number, the name and the newest value of each line."""
        return [(place, line.name, self._written(line.newest)) for place, line in enumerate(self.shown)]

    @property
    def shown(self) -> Sequence[Line]:
        return self.lines[:MOST_LINES]

    @property
    def svg(self) -> Markup:
        """The picture, with a text of its newest and highest values."""
        numbers = [number for line in self.shown for number in line.numbers if number is not None]
        top = self.top or nice(max([*numbers, self.least]))
        parts = [*self._grid(top), *self._lines(top)]
        label = Markup.escape("; ".join(self._told(line) for line in self.shown) or "no numbers yet")
        head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        return Markup(f"{head}{''.join(parts)}</svg>")  # noqa: S704 - numbers, and a text that is escaped

    def _told(self, line: Line) -> str:
        highest = max((number for number in line.numbers if number is not None), default=None)
        return f"{line.name}: now {self._written(line.newest)}, at most {self._written(highest)}"

    def _written(self, number: float | None) -> str:
        return "-" if number is None else self.write(number)

    def _grid(self, top: float) -> Iterator[str]:
        for step in range(_GRID + 1):
            height = _y(top * step / _GRID, top)
            yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>'
            words = Markup.escape(self.write(top * step / _GRID))
            yield f'<text class="scale" x="{_LEFT - 5}" y="{height + 3.5}" text-anchor="end">{words}</text>'
        for minutes, when, anchor in ((60, "an hour ago", "start"), (30, "30 min", "middle"), (0, "now", "end")):
            place = _x(60 - minutes, 61)
            yield f'<text class="scale" x="{place}" y="{HEIGHT - 5}" text-anchor="{anchor}">{when}</text>'

    def _lines(self, top: float) -> Iterator[str]:
        for place, line in enumerate(self.shown):
            for points in _pieces(line.numbers, top):
                if len(points) == 1:
                    [(x, y)] = points
                    yield f'<circle class="dot line-{place}" cx="{x}" cy="{y}" r="2"/>'
                else:
                    path = " ".join(f"{x},{y}" for x, y in points)
                    yield f'<polyline class="line line-{place}" points="{path}"/>'


def _pieces(numbers: Sequence[float | None], top: float) -> Iterator[list[tuple[float, float]]]:
    """The points of a line, without a connection over minutes that have no number."""
    piece: list[tuple[float, float]] = []
    for place, number in enumerate(numbers):
        if number is not None:
            piece.append((_x(place, len(numbers)), _y(number, top)))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _x(place: int, count: int) -> float:
    return round(_LEFT + place * (WIDTH - _LEFT - _RIGHT) / max(count - 1, 1), 1)


def _y(number: float, top: float) -> float:
    inside = HEIGHT - _TOP - _BOTTOM
    return round(_TOP + inside * (1 - min(number / top, 1.0)), 1)


def nice(number: float) -> float:
    """A round number that is at least as high, and above zero."""
    if number <= 0:
        return 1.0
    power = 1.0
    while power > number:
        power /= 10
    while power * 10 < number:
        power *= 10
    return next(power * step for step in _STEPS if power * step >= number)
