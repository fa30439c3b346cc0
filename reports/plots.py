"""Plots as SVG that take their colours from the page: how large the errors are, and how they grow with length.

matplotlib draws them; only its SVG backend is used, so that no display and no image library is involved.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.records import Record
from reports.explain import dtype_of, ratio_gravity
from reports.svg import page_svg
from reports.text import plain, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Plot", "plots_available", "ratio_plots"]

LOWEST, HIGHEST = 1e-2, 1e2
"""Ratios beyond these are drawn on the edge."""

ROWS_DRAWN = 24
"""Candidates in one plot: those with the largest ratios."""

_COLOURS = {"float64": "#000004", "float32": "#000001", "bfloat16": "#000002", "float16": "#000003"}
_INK, _LIMIT, _GRID = "#000000", "#000005", "#000006"
_MARKERS = "os^vD<>P"
_SIGNS = "●■▲▼◆◀▶✚"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One drawing: SVG text for the page, the sentence that stands for it where it cannot be seen, and a key."""

    title: str
    svg: str
    summary: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    op: str
    candidate: str
    dtype: str
    length: int | None
    ratio: float


def plots_available() -> bool:
    """Returns whether matplotlib can be imported."""
    try:
        import matplotlib.backends.backend_svg  # noqa: F401 - the import is the question
    except ImportError:
        return False
    return True


def ratio_plots(records: Sequence[Record]) -> tuple[list[Plot], list[Plot]]:
    """Returns, an operation each, the spread of ``|error| / tolerance`` and its growth with the number of tokens.

    All of them share one scale of ratios.

    Raises:
        ImportError: matplotlib is missing (ask ``plots_available`` first).
    """
    groups: dict[str, list[_Point]] = {}
    for point in _points(records):
        groups.setdefault(point.op, []).append(point)
    ratios = [_clipped(point.ratio) for points in groups.values() for point in points]
    limits = (min([*ratios, 0.1]) / 1.3, max([*ratios, 1.0]) * 1.6)
    spreads = [_spread_plot(op, points, limits) for op, points in sorted(groups.items())]
    growths = [_growth_plot(op, points, limits) for op, points in sorted(groups.items())]
    return spreads, [plot for plot in growths if plot is not None]


def _points(records: Sequence[Record]) -> Iterator[_Point]:
    for record in records:
        ratios = [ratio_gravity(judged.max_ratio) for judged in record.judgements if judged.max_ratio is not None]
        if ratios:
            yield _Point(
                op=_label(record.op, 40),
                candidate=_label(record.candidate, 24),
                dtype=_label(dtype_of(record), 12),
                length=_length(record.case),
                ratio=max(ratios),
            )


def _label(text: str, limit: int) -> str:
    return plain(text if len(text) <= limit else f"{text[:limit]}…")[: 2 * limit]


def _length(case: Mapping[str, Any]) -> int | None:
    """Returns the number of query tokens; that of all sequences together where they are packed."""
    length = case.get("query_tokens", case.get("tokens"))
    if length is None and isinstance(case.get("query_lengths"), list | tuple):
        length = sum(case["query_lengths"])
    return length if isinstance(length, int) else None


def _spread_plot(op: str, points: Sequence[_Point], limits: tuple[float, float]) -> Plot:
    rows: dict[tuple[str, str], list[float]] = {}
    for point in points:
        rows.setdefault((point.candidate, point.dtype), []).append(_clipped(point.ratio))
    labels = sorted(sorted(rows, key=lambda label: -max(rows[label]))[:ROWS_DRAWN], reverse=True)
    figure, axes = _figure(height=0.95 + 0.27 * len(labels))
    for position, label in enumerate(labels):
        ratios = sorted(rows[label])
        colour = _COLOURS.get(label[1], _INK)
        quarter, three_quarters = (_quantile(ratios, share) for share in (0.25, 0.75))
        axes.plot([ratios[0], ratios[-1]], [position, position], color=colour, linewidth=1, solid_capstyle="butt")
        axes.plot([quarter, three_quarters], [position, position], color=colour, linewidth=6, solid_capstyle="butt")
        axes.plot([statistics.median(ratios)], [position], marker="o", color=colour, markersize=5, linestyle="none")
        axes.plot([ratios[-1]], [position], marker="|", color=colour, markersize=9, linestyle="none")
    axes.set_yticks(range(len(labels)), [f"{candidate}, {dtype}" for candidate, dtype in labels], parse_math=False)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.set_xscale("log")
    _ratio_axis(axes, "x", limits)
    over = sum(point.ratio > 1 for point in points)
    return Plot(
        title=op,
        svg=page_svg(figure, prefix=f"spread-{op}"),
        summary=f"{op}: largest error over tolerance of {plural(len(points), 'case')}; {over} beyond the tolerance.",
        note="" if len(labels) == len(rows) else f"The worst {len(labels)} of {len(rows)}.",
    )


def _growth_plot(op: str, points: Sequence[_Point], limits: tuple[float, float]) -> Plot | None:
    worst: dict[tuple[str, str], dict[int, float]] = {}
    for point in points:
        if point.length:
            lengths = worst.setdefault((point.candidate, point.dtype), {})
            lengths[point.length] = max(lengths.get(point.length, 0.0), _clipped(point.ratio))
    if len({length for lengths in worst.values() for length in lengths}) < 2:
        return None
    figure, axes = _figure(height=2.5)
    candidates = sorted({candidate for candidate, _ in worst})
    for (candidate, dtype), lengths in sorted(worst.items()):
        axes.plot(
            sorted(lengths),
            [lengths[length] for length in sorted(lengths)],
            color=_COLOURS.get(dtype, _INK),
            marker=_MARKERS[candidates.index(candidate) % len(_MARKERS)],
            markersize=3.5,
            linestyle="none",
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda length, _: f"{length:,.0f}" if length >= 1 else "")
    axes.set_xlabel("query tokens (T)")
    axes.set_yscale("log")
    _ratio_axis(axes, "y", limits)
    lengths_seen = sorted({length for lengths in worst.values() for length in lengths})
    return Plot(
        title=op,
        svg=page_svg(figure, prefix=f"growth-{op}"),
        summary=f"{op}: largest error over tolerance at lengths from {lengths_seen[0]} to {lengths_seen[-1]} tokens.",
        note=_key(candidates),
    )


def _key(candidates: Sequence[str]) -> str:
    signs = [f"{sign} {name}" for sign, name in zip(_SIGNS, candidates, strict=False)]
    rest = len(candidates) - len(signs)
    return ", ".join([*signs, f"and {rest} more with the same signs"] if rest else signs)


def _figure(*, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, length=3)
    return figure, axes


def _ratio_axis(axes: "Axes", side: str, limits: tuple[float, float]) -> None:
    """Draws the tolerance at 1 and labels powers of ten as plain numbers; the limits are the same in every plot."""
    from matplotlib.ticker import NullLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda ratio, _: _tick(ratio))
    axis.grid(visible=True, which="major", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    if side == "x":
        axes.set_xlim(*limits)
        axes.axvline(1.0, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xlabel("largest |error| / tolerance", fontsize=8)
    else:
        axes.set_ylim(*limits)
        axes.axhline(1.0, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_ylabel("largest |error| / tolerance", fontsize=8)
        axes.xaxis.label.set_fontsize(8)


def _tick(ratio: float) -> str:
    if ratio <= LOWEST:
        return f"≤ {LOWEST:g}"
    return f"≥ {HIGHEST:g}" if ratio >= HIGHEST else f"{ratio:g}"


def _clipped(ratio: float) -> float:
    return min(max(ratio, LOWEST), HIGHEST)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.floor(share * (len(ordered) - 1) + 0.5)]
