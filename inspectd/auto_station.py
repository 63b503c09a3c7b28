"""What a survey of good parts saw -> the settings of a station, and its YAML with the reasons as comments.

The rules are those of docs/auto.md. Imports nothing that needs torch.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from engines.errors import one_line
from engines.labels import means_good
from engines.settings import CanvasSettings, Name
from inspectd.errors import UsageError
from inspectd.part_template import MARGIN_SHARE

if TYPE_CHECKING:
    from calibration.survey import Survey
    from engines.alignment import PartTemplate

SIDE_PX = 256
LARGER_SIDES_PX = (384, 512)
"""Tried in this order where detail is lost."""
STEP_PX = 32
LEAST_FACTOR = 2.0
"""Frame pixels in one canvas pixel from which on a larger canvas is thought of: below, 384 was no better than 256."""
LOST_SHARE = 0.25
"""Share of the part's places whose detail may be lost."""
LONG_ASPECT = 1.8
"""From this ratio of sides on the canvas is as long as the part."""
TURNS_DEG = 10.0
MOVES_SHARE = 0.05
GROWS_SHARE = 0.1
FILLS_SHARE = 0.8
"""Parts that turn, move or change size by more than these, or fill less of the frame, are aligned."""
DEADLINE_MS = 50.0
"""The default, which fits a canvas of 256x256; a larger canvas gets as much more time as it has more pixels."""
COMMENT_COLUMNS = 118
GENERIC_NAMES = frozenset({"train", "images", "data"})
"""Folders whose parent says what the part is, beside those of good parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen, for `Station`, and why: one sentence for each of locate, canvas and score."""

    locate: str
    canvas: CanvasSettings
    region: str
    reasons: tuple[str, str, str]

    @property
    def deadline_ms(self) -> float:
        """What the canvas's size asks for."""
        area = self.canvas.height_px * self.canvas.width_px / SIDE_PX**2
        return DEADLINE_MS * math.ceil(area) if area > 1.25 else DEADLINE_MS


def choose(survey: Survey) -> Choice:
    """Locate, canvas and region by the rules of docs/auto.md."""
    locate, why_locate = _locate(survey)
    height, width, margin = _extent(survey, locate)
    canvas, why_canvas = _canvas(survey, height, width, margin)
    region = "part" if survey.template is not None else "surface" if survey.is_surface else "whole"
    why_score = (
        "patches of the good parts are remembered, nothing is trained; score calibrated, which trains a student and a "
        "decoder, is there where you ask for it (docs/scores.md)"
    )
    return Choice(locate=locate, canvas=canvas, region=region, reasons=(why_locate, why_canvas, why_score))


def _locate(survey: Survey) -> tuple[str, str]:
    template = survey.template
    if survey.is_surface:
        return "off", "the whole frame is the part: a surface has no place to be aligned to"
    if template is None:
        return "off", "the whole frame as it is: without one part before a background there is nothing to align"
    grows = template.largest_scale - template.least_scale
    causes = [
        (survey.turned_deg > TURNS_DEG, f"it turns by more than {TURNS_DEG:g} degrees"),
        (survey.moved_share > MOVES_SHARE, f"it moves by more than {MOVES_SHARE:.0%} of its size"),
        (grows > GROWS_SHARE, f"its scale varies by more than {GROWS_SHARE:.0%}"),
        (survey.filled_share < FILLS_SHARE, f"it fills less than {FILLS_SHARE:.0%} of the frame's longer side"),
    ]
    found = [words for holds, words in causes if holds]
    if found:
        return "part", f"each part is found and aligned, because {' and '.join(found)}"
    return "off", (
        f"the frame as it is: the part turns by no more than {TURNS_DEG:g} degrees, moves by no more than "
        f"{MOVES_SHARE:.0%} of its size and fills {survey.filled_share:.0%} of the frame; aligning such parts gained "
        "nothing where it was measured"
    )


def _extent(survey: Survey, locate: str) -> tuple[float, float, float]:
    """(height, width) in frame pixels of what the canvas shows, and the share of the canvas that it takes."""
    if locate == "part" and survey.template is not None:
        height, width = part_box(survey.template)
        return height, width, 1 - 2 * MARGIN_SHARE
    return float(survey.usual_px[0]), float(survey.usual_px[1]), 1.0


def part_box(template: PartTemplate) -> tuple[float, float]:
    """(height, width) in frame pixels of the upright box around the part in its canonical pose."""
    rows, columns = np.nonzero(template.mask)
    return float(np.ptp(rows) + 1) * template.frame_px, float(np.ptp(columns) + 1) * template.frame_px


def _canvas(survey: Survey, height: float, width: float, room: float) -> tuple[CanvasSettings, str]:
    factor = max(height, width) / (room * SIDE_PX)
    side, why = SIDE_PX, f"one canvas pixel shows {factor:.1f} frame pixels"
    lost = survey.detail_at(factor)
    if factor < LEAST_FACTOR:
        why += ", and a larger canvas would take longer and was no better where it was measured"
    elif lost < LOST_SHARE:
        why += f", and {_most(1 - lost)} of the part's places have no detail that is lost by it"
    else:
        tried = [(each, survey.detail_at(factor * SIDE_PX / each)) for each in LARGER_SIDES_PX]
        side, left = next((each for each in tried if each[1] < LOST_SHARE), tried[-1])
        why = (
            f"at {SIDE_PX} pixels a side one canvas pixel would show {factor:.1f} frame pixels, and detail would be "
            f"lost on {lost:.0%} of the part's places; at {side} one shows {factor * SIDE_PX / side:.1f}, and detail "
            f"is lost on {left:.0%}"
        )
        if left >= LOST_SHARE:
            why += "; finer defects than that want a closer camera, or several that share the part"
    canvas = _shaped(side, height, width)
    if canvas.height_px != canvas.width_px:
        why += "; it is as long as the part, with as many pixels as a square one"
    return canvas, why


def _most(share: float) -> str:
    return "nearly all" if share > 0.95 else f"{share:.0%}"


def _shaped(side: int, height: float, width: float) -> CanvasSettings:
    """Square, or for long parts of their shape and the same area, its sides multiples of 32 and at most 512."""
    aspect = max(height, width) / min(height, width)
    if aspect < LONG_ASPECT:
        return CanvasSettings(height_px=side, width_px=side)
    stretch = math.sqrt(aspect)
    long = min(max(LARGER_SIDES_PX), STEP_PX * round(side * stretch / STEP_PX))
    short = max(2 * STEP_PX, STEP_PX * round(long / aspect / STEP_PX))
    return CanvasSettings(height_px=short if width > height else long, width_px=long if width > height else short)


def station_name(data: Path, asked: str | None = None) -> str:
    """`asked`, or a name made of the data folder's. Raises UsageError for a name that no station can have."""
    if asked is not None:
        try:
            return TypeAdapter(Name).validate_python(asked)
        except ValidationError as error:
            raise UsageError(
                f"--name {one_line(asked)!r}: a station's name is lower-case letters, digits, - and _, at most 64"
            ) from error
    folder = data.resolve()
    while (folder.name.lower() in GENERIC_NAMES or means_good(folder.name)) and folder.parent != folder:
        folder = folder.parent
    name = re.sub(r"[^a-z0-9_]+", "-", folder.name.lower()).strip("-_")[:64]
    return name or "station"


def station_yaml(name: str, data: Path, pictures: Path, survey: Survey, choice: Choice) -> str:
    """The station as YAML text that a person can edit; `pictures` is the folder that its camera replays."""
    canvas = choice.canvas
    area = {"name": choice.region, "top_px": 0, "left_px": 0}
    why_locate, why_canvas, why_score = choice.reasons
    slow = choice.deadline_ms > DEADLINE_MS
    lines = [
        *_comment(f"Station {name}, made by `inspectd calibrate --data {one_line(str(data))}`; edit it as you like."),
        "#",
        *_comment("What was seen:"),
        *(line for words in (*survey.words, *survey.warnings) for line in _comment(f"- {words}", "  ")),
        "",
        f"station: {name}",
        f"description: {_scalar(f'{name}, chosen from {survey.count} good pictures')}",
        "",
        *_comment(
            "The pictures that it was made from, so that `inspectd run` can be tried. On the line: kind opencv, "
            'source "0" or /dev/video0 or rtsp://... (docs/settings.md, camera), and what triggers (trigger).'
        ),
        "camera:",
        "  kind: folder",
        f"  path: {_scalar(str(pictures))}",
        "",
        *_comment(f"Locate: {why_locate}."),
        f'locate: {{mode: "{choice.locate}"}}',
        "",
        *_comment(f"Canvas: {why_canvas}."),
        f"canvas: {{height_px: {canvas.height_px}, width_px: {canvas.width_px}}}",
        "",
        *_comment(
            "Regions: one, the whole canvas. Give an area that matters more a region, and so a limit, of its own; what "
            "lies in no region is not judged."
        ),
        "regions:",
        f"  - {_flow({**area, 'height_px': canvas.height_px, 'width_px': canvas.width_px})}",
        "",
        *_comment(f"Model: {why_score}."),
        "model: {score: memory}",
        "",
        *_timing(choice, slow),
        *_comment(
            "All else has its default (docs/settings.md). Look first at: calibration.false_reject_rate 0.01, the share "
            "of good parts that the line may lose; trigger.source camera; line.invalid_action reject; tracking, when "
            "the actuator acts; outputs, the addresses that results are told at."
        ),
    ]
    return "\n".join(lines) + "\n"


def _timing(choice: Choice, slow: bool) -> list[str]:
    if not slow:
        return []
    return [
        *_comment(
            "Line: this canvas takes the engine longer than 256x256 does, by about as much as it has more pixels, so "
            f"the deadline is {choice.deadline_ms:g} ms, not {DEADLINE_MS:g}. `inspectd check` times it here."
        ),
        f"line: {{deadline_ms: {choice.deadline_ms:g}}}",
        "",
    ]


def _comment(text: str, indent: str = "") -> list[str]:
    """Comment lines; a wrapped one is indented below the first."""
    return [
        f"# {line}"
        for line in textwrap.wrap(
            one_line(text),
            COMMENT_COLUMNS - 2,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _scalar(text: str) -> str:
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return dumped.strip()


def _flow(values: dict[str, Any]) -> str:
    dumped: str = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=math.inf)
    return dumped.strip()


def in_words(survey: Survey, choice: Choice) -> Sequence[str]:
    """What was seen and chosen, a line each, for a terminal."""
    canvas = choice.canvas
    chosen = (f'locate "{choice.locate}"', f"canvas {canvas.width_px}x{canvas.height_px}", "model.score memory")
    return (
        "seen:",
        *(f"  {words}" for words in survey.words),
        "chosen:",
        *(f"  {what}: {why}" for what, why in zip(chosen, choice.reasons, strict=True)),
    )
