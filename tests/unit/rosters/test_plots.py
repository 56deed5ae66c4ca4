"""A plot is a well-formed image whose bars are as long as its numbers say."""

import base64
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.rosters.plots import bar_chart, horizontal_bar_chart, inline_image, line_chart

SVG = "{http://www.w3.org/2000/svg}"


@given(st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.integers(0, 10**7), max_size=12))
def test_every_bar_is_there_with_its_number_and_name(counts: dict[str, int]) -> None:
    image = ET.fromstring(bar_chart("a < b & c", counts))
    title, *texts = [element.text or "" for element in image.iter(f"{SVG}text")]
    assert title == "a < b & c"
    assert texts == [text for name, number in counts.items() for text in (f"{number:,}", name)]
    _, *bars = [int(element.get("height", "0")) if element.get("height") != "100%" else 0
                for element in image.iter(f"{SVG}rect")]  # fmt: skip
    assert len(bars) == len(counts)
    most = max(counts.values(), default=0) or 1
    for bar, number in zip(bars, counts.values(), strict=True):
        assert abs(bar / 90 - number / most) <= 1 / 90


@given(st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.integers(0, 10**7), max_size=40))
def test_a_horizontal_bar_has_its_name_its_number_and_a_length_of_its_own(counts: dict[str, int]) -> None:
    image = ET.fromstring(horizontal_bar_chart("a < b & c", counts))
    title, *texts = [element.text or "" for element in image.iter(f"{SVG}text")]
    assert title == "a < b & c"
    assert texts == [text for name, number in counts.items() for text in (name, f"{number:,}")]
    _, *bars = [element.get("width", "") for element in image.iter(f"{SVG}rect")]
    most = max(counts.values(), default=0) or 1
    for bar, number in zip(bars, counts.values(), strict=True):
        assert abs(int(bar) / 240 - number / most) <= 1 / 240


@given(st.lists(st.tuples(st.dates().map(str), st.integers(0, 10**7)), max_size=31))
def test_a_line_goes_through_every_point_and_names_its_ends(points: list[tuple[str, int]]) -> None:
    image = ET.fromstring(line_chart("a < b & c", points))
    title, *texts = [element.text or "" for element in image.iter(f"{SVG}text")]
    assert title == "a < b & c"
    ends = points if len(points) < 2 else [points[0], points[-1]]
    assert texts == [text for name, number in ends for text in (f"{number:,}", name)]
    (line,) = image.iter(f"{SVG}polyline")
    places = [tuple(map(float, place.split(","))) for place in line.get("points", "").split()]
    assert len(places) == len(points)
    assert sorted(left for left, _ in places) == [left for left, _ in places]
    by_number = sorted(zip((number for _, number in points), (-down for _, down in places), strict=True))
    assert [up for _, up in by_number] == sorted(up for _, up in by_number), "more is higher"


def test_a_plot_is_text_in_the_metadata() -> None:
    text = inline_image("<svg/>", "an image")
    start, _, encoded = text.partition("base64,")
    assert start == "![an image](data:image/svg+xml;"
    assert base64.b64decode(encoded.removesuffix(")")) == b"<svg/>"
