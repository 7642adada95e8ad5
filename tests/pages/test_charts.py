import math
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pages.charts import bar_chart, line_chart

numbers = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-9)


@settings(deadline=None)
@given(st.dictionaries(st.text("abc<&\"'", max_size=5), st.lists(st.tuples(numbers, numbers), max_size=20), max_size=4))
def test_a_line_chart_is_well_formed_and_inside_its_frame(series) -> None:
    chart = line_chart(series, "step & time", "loss <0.1")
    if not any(series.values()):
        assert "Nothing to draw" in chart
        return
    for line in ElementTree.fromstring(chart).iter("polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert -0.1 <= x <= 720.1 and -0.1 <= y <= 300.1


def test_points_that_are_not_finite_are_left_out() -> None:
    chart = line_chart({"loss": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]}, "step", "loss")
    (line,) = ElementTree.fromstring(chart).iter("polyline")
    assert len(line.attrib["points"].split()) == 2


def test_a_long_curve_keeps_its_ends_and_peaks_in_few_points() -> None:
    values = [1.0] * 20_000
    values[0], values[7_001], values[-1] = 2.0, 9.0, 3.0
    chart = line_chart({"loss": list(enumerate(values))}, "step", "loss")
    (line,) = ElementTree.fromstring(chart).iter("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert len(points) < 1500
    assert points == sorted(points, key=lambda point: point[0])
    heights = [y for _, y in points]
    assert heights[0] < max(heights) and heights[-1] < heights[0]
    assert min(heights) < heights[-1] and heights.count(min(heights)) == 1


def test_bars_are_shares_of_the_longest_and_escape_their_labels() -> None:
    chart = bar_chart([("a<b", 2.0, "2"), ("c", 1.0, "1")], reference=(0.5, "chance"))
    assert "a&lt;b" in chart
    assert "width:100.00%" in chart and "width:50.00%" in chart and "left:25.00%" in chart
    chart = bar_chart([("a", 2.0, "2"), ("c", 1.0, "1")], reference=(0.5, "chance"), full=4.0)
    assert "width:50.00%" in chart and "width:25.00%" in chart and "left:12.50%" in chart
