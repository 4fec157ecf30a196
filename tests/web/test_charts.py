"""Charts as pictures and as texts."""

import xml.etree.ElementTree as ElementTree

from app.web.status.charts import MOST_LINES, Chart, Line, nice
from tests.cases import each_case


@each_case(
    ("number", "expected"),
    [
        (0, 1),
        (0.004, 0.005),
        (0.9, 1),
        (1, 1),
        (1.2, 2),
        (2.1, 2.5),
        (7, 10),
        (11, 20),
        (260, 500),
        (99_999, 100_000),
    ],
)
def test_a_scale_ends_at_a_round_number(number: float, expected: float) -> None:
    assert abs(nice(number) - expected) < 1e-9


def test_a_chart_says_in_words_what_it_shows_and_leaves_gaps() -> None:
    lines = [Line("sms", [1, 2, None, 3, None]), Line("<b>", [None] * 5)]
    chart = Chart("Due", lines, lambda number: f"{number:g} %")
    picture = ElementTree.fromstring(str(chart.svg))  # noqa: S314 - our own
    assert picture.get("aria-label") == "sms: now 3 %, at most 3 %; <b>: now -, at most -"
    assert len(picture.findall("polyline")) == 1
    assert len(picture.findall("circle")) == 1
    assert chart.legend == [(0, "sms", "3 %"), (1, "<b>", "-")]
    assert "style" not in str(chart.svg)


def test_a_chart_without_a_number_is_drawn() -> None:
    picture = ElementTree.fromstring(str(Chart("Due", [], str, least=4).svg))  # noqa: S314 - our own
    assert [each.text for each in picture.findall("text")][:3] == ["0.0", "2.5", "5.0"]
    assert picture.get("aria-label") == "no numbers yet"


def test_a_chart_has_as_many_lines_as_can_be_told_apart() -> None:
    chart = Chart("Due", [Line(str(number), [1.0]) for number in range(9)], str)
    assert len(chart.legend) == MOST_LINES
