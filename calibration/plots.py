"""Pictures of the calibration report and of results, as PNG bytes. Drawn without pyplot: nothing global is touched."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from engines.artifact import Lambda, Threshold, ThresholdSet

INK, QUIET, BLUE, RED, GRID = "#1f2933", "#7b8794", "#3f7cac", "#c8453b", "#e4e7eb"
DPI = 160
BINS = 40
TILE_PX = 192
SHEET_COLUMNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedPart:
    """A labelled part with its map: (H, W, 3) uint8 RGB, (H1, W1), and its defect (H, W), all false where unmarked."""

    title: str
    about: str
    good: bool
    part_image: NDArray[np.uint8]
    anomaly_map: NDArray[np.floating]
    mask: NDArray[np.bool_]


def score_histograms(columns: Sequence[tuple[str, NDArray[np.floating], Threshold]]) -> bytes:
    """One histogram per score of held-out good parts, (P,) each, with its limit."""
    across = min(len(columns), 2)
    down = -(-len(columns) // across)
    figure = Figure(figsize=(9.2, 2.35 * down), dpi=DPI, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (name, scores, threshold) in zip(grid.flat, columns, strict=False):
        _histogram(axes, name, np.asarray(scores, dtype=np.float64), threshold)
    for axes in grid.flat[len(columns) :]:
        axes.set_axis_off()
    return _png(figure)


def rate_bar(thresholds: ThresholdSet) -> bytes:
    """The promised false-reject rate with its interval, against the rate that was asked for."""
    figure = Figure(figsize=(9.2, 1.15), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    low, expected, high = (100 * rate for rate in (thresholds.low, thresholds.expected_rate, thresholds.high))
    axes.plot([low, high], [0, 0], color=BLUE, linewidth=9, alpha=0.35, solid_capstyle="butt")
    axes.plot([expected], [0], "o", color=BLUE, markersize=9)
    asked = 100 * thresholds.asked_rate
    axes.axvline(asked, color=RED, linewidth=1.5)
    _at_line(axes, "asked", asked, RED, to_the_left=False)
    axes.set_xlim(0, 1.15 * max(high, asked))
    axes.set_ylim(-0.6, 1)
    axes.set_yticks([])
    axes.set_xlabel(f"good parts rejected, % (dot: expected, bar: {thresholds.confidence:.0%} interval)", color=INK)
    _tidy(axes)
    axes.spines["left"].set_visible(False)
    return _png(figure)


def lambda_bars(lambdas: Sequence[Lambda]) -> bytes:
    """Region weights with their intervals."""
    figure = Figure(figsize=(6.4, 0.7 + 0.42 * len(lambdas)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    values = np.array([weight.value for weight in lambdas])
    errors = np.array([[w.value - w.low for w in lambdas], [w.high - w.value for w in lambdas]])
    places = np.arange(len(lambdas))[::-1]
    axes.barh(places, values, height=0.55, color=BLUE, alpha=0.55)
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.3, capsize=3.5)
    axes.set_yticks(places, [weight.region for weight in lambdas])
    axes.set_xlim(0, 1.05 * max(1.0, float((values + errors[1]).max())))
    axes.set_xlabel("weight λ (largest = 1)", color=INK)
    _tidy(axes)
    return _png(figure)


def training_curves(curves: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Loss over steps, one small plot per curve; each (N, 2) of step and loss."""
    figure = Figure(figsize=(9.2, 2.3), dpi=DPI, layout="constrained")
    grid = figure.subplots(1, len(curves), squeeze=False)
    for axes, (name, points) in zip(grid.flat, curves.items(), strict=True):
        step, loss = np.asarray(points, dtype=np.float64).T
        axes.plot(step, loss, color=BLUE, linewidth=1.2)
        if (loss > 0).all():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("step", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _tidy(axes)
        axes.grid(axis="y", color=GRID)
    return _png(figure)


def image_tile(image: NDArray[np.uint8]) -> bytes:
    """An (H, W, 3) uint8 RGB image, enlarged without smoothing to about TILE_PX rows."""
    scale = max(1, round(TILE_PX / image.shape[0]))
    large = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    return image_png(large)


def grey_tile(picture: NDArray[np.floating]) -> bytes:
    """An (H, W) picture of grey values in [0, 1]."""
    grey = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return image_tile(np.repeat(grey[:, :, None], 3, axis=2))  # (H, W) -> (H, W, 3)


def catching_curve(points: NDArray[np.floating], limits: ThresholdSet) -> bytes:
    """Share of made defects caught over the expected false-reject rate, (N, 2), and where the limits are."""
    figure = Figure(figsize=(6.4, 2.7), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * points[:, 0], 100 * points[:, 1], color=BLUE, linewidth=1.6, marker="o", markersize=4)
    axes.axvline(100 * limits.expected_rate, color=RED, linewidth=1.5)
    _at_line(axes, "these limits", 100 * limits.expected_rate, RED, False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 100)
    axes.set_xlabel("good parts rejected, expected, %", color=INK)
    axes.set_ylabel("made defects caught, %", color=INK)
    _tidy(axes)
    axes.grid(color=GRID)
    return _png(figure)


def labelled_histogram(scores: NDArray[np.floating], defective: NDArray[np.bool_], limit: float) -> bytes:
    """Part scores (P,) of good and of defective parts, (P,) true, with the limit of the part score.

    Scores above the 98 % quantile share the last bin, so that a few plain defects do not squeeze all others into one.
    """
    scores = np.asarray(scores, dtype=np.float64)
    low, most = float(min(scores.min(), limit)), float(scores.max())
    high = max(float(np.quantile(scores, 0.98)), limit + 0.1 * abs(limit - low), low + 1e-9)
    edges = np.linspace(low, high, 2 * BINS + 1)
    figure = Figure(figsize=(9.2, 2.9), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for name, chosen, color in (("good", ~defective, BLUE), ("defective", defective, RED)):
        values = np.minimum(scores[chosen], high)
        weights = np.full(len(values), 100 / max(len(values), 1))
        axes.hist(values, bins=edges.tolist(), weights=weights, color=color, alpha=0.55, label=f"{name}, {len(values)}")
    axes.axvline(limit, color=INK, linewidth=1.5)
    _at_line(axes, f"limit {limit:.4g}", limit, INK, limit > low + 0.6 * (high - low))
    axes.set_xlabel("part score" + (f" (last bin: up to {most:.4g})" if most > high else ""), color=INK)
    axes.set_ylabel("% of the parts of a kind", color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper right")
    _tidy(axes)
    return _png(figure)


def roc(scores: NDArray[np.floating], defective: NDArray[np.bool_], rejected: NDArray[np.bool_]) -> bytes:
    """ROC curve of the part score (P,), and what the limits (part and regions) do: (P,) true where rejected."""
    false_rate, true_rate, _ = roc_curve(defective, scores)
    figure = Figure(figsize=(4.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GRID, linewidth=1.2)
    axes.plot(100 * false_rate, 100 * true_rate, color=BLUE, linewidth=1.6)
    point = 100 * float(rejected[~defective].mean()), 100 * float(rejected[defective].mean())
    axes.plot(
        *point, "o", color=RED, markersize=7, label=f"limits: {point[0]:.1f} % of good, {point[1]:.1f} % of defective"
    )
    axes.set_xlabel("good parts rejected, %", color=INK)
    axes.set_ylabel("defective parts rejected, %", color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower right")
    _tidy(axes)
    axes.grid(color=GRID)
    return _png(figure)


def map_sheet(parts: Sequence[MappedPart]) -> bytes:
    """Each part beside its anomaly map, the defect's outline in both; all maps share one colour scale.

    Colour begins at the median of the good parts and is full at twice the way from there to their highest: what
    escaped can then be seen beside what nobody could overlook. Maps are 0 where no region is.
    """
    good = np.concatenate([part.anomaly_map.ravel() for part in parts if part.good] or [np.zeros(1)])
    looked_at = good[good != 0]
    floor = float(np.median(looked_at)) if len(looked_at) else 0.0
    top = 2 * (float(good.max()) - floor)
    height, width = parts[0].part_image.shape[:2]
    down = -(-len(parts) // SHEET_COLUMNS)
    tile_in = 1.55
    size = (2 * SHEET_COLUMNS * tile_in, down * (tile_in * height / width + 0.42))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(down, 2 * SHEET_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, part in enumerate(parts):
        row, column = divmod(index, SHEET_COLUMNS)
        pair = grid[row][2 * column : 2 * column + 2]
        for axes, picture in zip(
            pair, (part.part_image, _overlay(part.part_image, part.anomaly_map - floor, top)), strict=True
        ):
            axes.imshow(picture, interpolation="nearest")
            if part.mask.any():
                axes.contour(part.mask, levels=[0.5], colors="#35e0d0", linewidths=0.9)
        pair[0].set_title(f"{part.title}\n{part.about}", fontsize=7, color=INK, loc="left")
    return _png(figure)


def map_tile(image: NDArray[np.uint8], anomaly_map: NDArray[np.floating], top: float) -> bytes:
    """The anomaly map (H1, W1) laid over its (H, W, 3) part image; `top` is the value of the full colour."""
    return image_tile(_overlay(image, anomaly_map, top))


def _overlay(image: NDArray[np.uint8], anomaly_map: NDArray[np.floating], top: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    full = cv2.resize(np.asarray(anomaly_map, dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    share = np.clip(np.nan_to_num(full) / (top or 1.0), 0, 1)
    heat = cv2.cvtColor(cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    # Quiet places keep the part's own look; only what stands out is coloured.
    alpha = (0.15 + 0.75 * share)[:, :, None]
    mixed: NDArray[np.uint8] = np.rint((1 - alpha) * image + alpha * heat).astype(np.uint8)
    return mixed


def _histogram(axes: Axes, name: str, scores: NDArray[np.float64], threshold: Threshold) -> None:
    left = float(min(scores.min(), threshold.value))
    right = float(max(scores.max(), threshold.value))
    margin = 0.06 * (right - left) or 0.5
    edges = np.linspace(left - margin, right + margin, BINS + 1).tolist()
    axes.hist(scores[scores <= threshold.value], bins=edges, color=BLUE, alpha=0.7)
    above = scores[scores > threshold.value]
    if len(above):
        axes.hist(above, bins=edges, color=RED, alpha=0.85)
    axes.axvline(threshold.value, color=RED, linewidth=1.5)
    to_the_left = threshold.value > left + 0.6 * (right - left)
    _at_line(axes, f"limit {threshold.value:.4g}", threshold.value, RED, to_the_left)
    axes.set_title(f"{name}: {len(above)} of {len(scores)} above the limit", fontsize=9, color=INK, loc="left")
    axes.set_xlabel("score", color=INK)
    axes.set_ylabel("good parts", color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _tidy(axes)


def _at_line(axes: Axes, text: str, x: float, color: str, to_the_left: bool) -> None:
    """A word at the top of a vertical line at x."""
    axes.annotate(
        text,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if to_the_left else 4, -2),
        textcoords="offset points",
        fontsize=8,
        va="top",
        ha="right" if to_the_left else "left",
        color=color,
    )


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8, labelcolor=INK)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # makes itself the figure's canvas
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def image_png(image: NDArray[np.uint8]) -> bytes:
    """An RGB picture (H, W, 3) uint8 as it is."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
