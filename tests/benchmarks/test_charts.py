"""Charts show what they are given, and the same figures make the same file."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.charts import bars, lines, short

ROWS = {"Meterline": 312_000.0, "Kafka Streams": 45_300.0, "Faust": 4_100.0}
SERIES = {"events": [(1e5, 1.1), (1e8, 1.3), (1e6, 1.2)], "ids": [(1e5, 2.0), (1e8, 2.5)]}


def texts(chart: Path) -> list[str]:
    root = ElementTree.parse(chart).getroot()
    return [text for text in map(str.strip, root.itertext()) if text]


def test_bars_show_title_unit_names_and_figures(tmp_path: Path) -> None:
    bars(tmp_path / "made" / "bars.svg", "Speed", "events per CPU second", ROWS)
    shown = texts(tmp_path / "made" / "bars.svg")
    assert {"Speed", "events per CPU second", *ROWS, "312 k", "45.3 k", "4.1 k"} <= set(shown)


def test_lines_show_their_labels_and_a_legend(tmp_path: Path) -> None:
    lines(tmp_path / "lines.svg", "Cost", "events", "µs per event", SERIES, log_x=True)
    assert {"Cost", "events", "µs per event", "ids"} <= set(texts(tmp_path / "lines.svg"))


def test_a_logarithmic_axis_of_less_than_a_decade_can_be_read(tmp_path: Path) -> None:
    lines(tmp_path / "lines.svg", "Waits", "x", "ms", {"p99": [(1, 40), (2, 600)]}, log_y=True)
    assert {"60", "100", "200"} <= set(texts(tmp_path / "lines.svg"))


def test_the_same_figures_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first.svg", "second.svg"):
        bars(tmp_path / name, "Speed", "events", ROWS)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    for name in ("third.svg", "fourth.svg"):
        lines(tmp_path / name, "Cost", "events", "µs", SERIES)
    assert (tmp_path / "third.svg").read_bytes() == (tmp_path / "fourth.svg").read_bytes()


def test_colours_can_be_told_from_white_and_from_black(tmp_path: Path) -> None:
    bars(tmp_path / "bars.svg", "Speed", "events", ROWS)
    lines(tmp_path / "lines.svg", "Cost", "events", "µs", SERIES)
    for chart in ("bars.svg", "lines.svg"):
        colours = set(
            re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", (tmp_path / chart).read_text())
        )
        assert colours
        for colour in colours:
            brightness = _brightness(colour)
            # WCAG 2.1's contrast ratio, for graphics and large text at least 3.
            assert 1.05 / (brightness + 0.05) > 3
            assert (brightness + 0.05) / (_brightness("#0d1117") + 0.05) > 3


def _brightness(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0314, "0.0314"),
        (12.44, "12.4"),
        (999.4, "999"),
        (999.6, "1 k"),
        (86_400, "86.4 k"),
        (1_530_000, "1.53 M"),
        (2e9, "2 G"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert short(value) == text
