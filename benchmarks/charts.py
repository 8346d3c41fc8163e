"""Charts as SVG: the same figures make the same bytes, and they can be read on light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Grey of middle brightness: at least 4.5:1 on GitHub's white, 3.9:1 on its black (WCAG 2.1).
_INK: Final = "#7d7d7d"
_FIRST = "#d9730d"
_OTHERS = "#5b8db8"
_LINES = (_FIRST, "#3f87c6", "#3f9a62", "#a06cc0", "#b5891c", "#c9576a")
_MARKERS = "osD^vP"
#: The names of more series than these would lie upon a line.
_NAMES_INSIDE_MAX = 4

_STYLE: Final[dict[Any, Any]] = {
    # Without a fixed salt the identifiers in the file are new each time.
    "svg.hashsalt": "meterline",
    # Text stays text, in the reader's own font.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def bars(path: Path, title: str, unit: str, rows: Mapping[str, float]) -> None:
    """Write a chart of one horizontal bar a row, the first on top and in another colour."""
    with _drawn(path, height=1.1 + 0.42 * max(len(rows), 1)) as axes:
        drawn = axes.barh(
            list(rows),
            list(rows.values()),
            color=[_FIRST, *[_OTHERS] * (len(rows) - 1)][: len(rows)],
            height=0.62,
        )
        axes.bar_label(drawn, [short(value) for value in rows.values()], padding=4, color=_INK)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(_short_tick)
        axes.grid(axis="x")
        axes.set_axisbelow(True)


def lines(
    path: Path,
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Write a chart of one line a series, each through its (x, y) points in the order of x."""
    with _drawn(path, height=4.2) as axes:
        for number, (name, points) in enumerate(series.items()):
            x, y = zip(*sorted(points), strict=True) if points else ((), ())
            axes.plot(
                x,
                y,
                label=name,
                color=_LINES[number % len(_LINES)],
                marker=_MARKERS[number % len(_MARKERS)],
                # One series may lie upon another: the hollow marks of both are seen.
                fillstyle="none",
                markersize=6 + 2 * (number % 2),
            )
        _scale(axes, log_x=log_x, log_y=log_y)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
        if len(series) > _NAMES_INSIDE_MAX:
            axes.figure.legend(loc="outside lower center", ncols=3)
        elif len(series) > 1:
            axes.legend()


def short(value: float) -> str:
    """A figure of three digits: 1.53 M, 86 k, 12.4, 0.031."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        # What would be rounded to 1,000 of one unit is 1 of the next.
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


@contextmanager
def _drawn(path: Path, *, height: float) -> Iterator[Axes]:
    """Empty axes, `height` in inches, and in the end the file with what is on them."""
    # Half a second, which the many processes that only measure need not spend.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        yield figure.add_subplot()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _scale(axes: Axes, *, log_x: bool, log_y: bool) -> None:
    from matplotlib.ticker import LogFormatter

    for axis, logarithmic, set_scale in (
        (axes.xaxis, log_x, axes.set_xscale),
        (axes.yaxis, log_y, axes.set_yscale),
    ):
        if logarithmic:
            set_scale("log")
            # Only where fewer than three powers of ten are there to be read.
            axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axis.set_major_formatter(_short_tick)
    if not log_y:
        axes.set_ylim(bottom=0)


def _short_tick(value: float, _: float = 0) -> str:
    return short(value)
