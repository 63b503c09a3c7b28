"""Good pictures -> what they show, in numbers and in plain words: from which a station can be chosen.

Knows nothing of stations: sizes, colour, repeats, whether one part stands out and how it lies, how fine the detail is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from calibration.cautions import CELL_PX, DIM, MOVING_SHARE
from calibration.errors import DataError, TooFewParts
from calibration.fine_detail import detail_finer_than
from calibration.part_pose import TURN_SLACK_DEG
from calibration.part_scene import Load, NoPartSeen
from calibration.part_template import learn_part_template
from calibration.same_part import VIEW_PX, same_parts
from calibration.surface import CANONICAL_SHARE, share_left
from engines.alignment import Aligner, Misaligned, PartTemplate

Images = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]

LEAST_PARTS = 5
"""From which anything can be learnt."""
FEW_PARTS = 100
CELLS = 256 // CELL_PX
SURFACE_SHARE = 0.8
"""Of what varies, left by each place's own mean. Six papers have 1.0, magnetic tiles 0.9, cells of many looks 0.6."""
GREY_STEP = 3
"""Between channels: JPEG in colour leaves so much of a grey scene."""
DETAIL_PICTURES = 16
SHARPNESS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Pixels in one, for which lost detail is measured."""
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """A good part's picture: its name for people, and what reads it as (H, W, 3) uint8 RGB."""

    name: str
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What good pictures show.

    count: pictures. least_px, usual_px, largest_px: (height, width), each the smallest, median and largest. grey:
    whether they have no colour. brightest: highest grey level of all. repeated: pictures that repeat another one
    exactly. bursts: names of pictures that seem to show one part, group by group. template: how the one part lies, None
    where no_part says why there is none. left_share: of what varies among pictures, the share that each place's own
    mean leaves: near 0 where all lie still, near 1 for surfaces. detail: (pixels, share) for rising numbers of pixels
    in one, the share of places with finer detail.
    """

    count: int
    least_px: tuple[int, int]
    usual_px: tuple[int, int]
    largest_px: tuple[int, int]
    grey: bool
    brightest: int
    repeated: int
    bursts: tuple[tuple[str, ...], ...]
    template: PartTemplate | None
    no_part: str
    template_words: tuple[str, ...]
    left_share: float
    detail: tuple[tuple[float, float], ...]

    @property
    def parts(self) -> int:
        """How many parts there seem to be; a burst counts as one."""
        return self.count - self.repeated - sum(len(burst) - 1 for burst in self.bursts)

    @property
    def is_surface(self) -> bool:
        """Whether no place of the frame has a look of its own, as on cloth, paper or tiles."""
        return self.template is None and self.left_share >= SURFACE_SHARE

    @property
    def turned_deg(self) -> float:
        """How far the part turns to either side, degrees; 0 where there is none, or it is round."""
        template = self.template
        if template is None or template.symmetry == 0:
            return 0.0
        if template.turn_deg >= 180 / template.symmetry:
            return template.turn_deg
        return max(0.0, (template.turn_deg - TURN_SLACK_DEG) / 1.5)

    @property
    def moved_share(self) -> float:
        """Standard deviation of the part's place in the frame, as a share of its diameter; 0 where there is none."""
        template = self.template
        return 0.0 if template is None else float(np.hypot(*template.shift_px)) / template.diameter_px

    @property
    def filled_share(self) -> float:
        """The part's diameter as a share of the frame's longer side; 1 where no part stands out."""
        return 1.0 if self.template is None else min(1.0, self.template.diameter_px / max(self.largest_px))

    def detail_at(self, pixels: float) -> float:
        """Share of places whose detail is lost where so many pixels become one."""
        return float(np.interp(pixels, [1.0, *(each for each, _ in self.detail)], [0.0, *(s for _, s in self.detail)]))

    @property
    def words(self) -> tuple[str, ...]:
        """What was seen, one sentence each."""
        colour = "grey" if self.grey else "in colour"
        found = [f"{self.count} good pictures, {self._size_in_words()}, {colour}"]
        if self.template is not None:
            found.extend(self.template_words)
            found.append(f"it fills {self.filled_share:.0%} of the frame's longer side")
        elif self.is_surface:
            found.append("a surface: no place of the frame has a look of its own")
        else:
            found.append(f"no single part stands out from a background ({self.no_part})")
            found.append(self._stillness_in_words())
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should mend or know, one sentence each."""
        found = []
        if self.repeated:
            repeat = "picture repeats" if self.repeated == 1 else "pictures repeat"
            found.append(f"{self.repeated} {repeat} another one exactly, and only one of them is learnt from")
        if self.bursts:
            found.append(self._bursts_in_words())
        if self.least_px != self.largest_px:
            found.append(
                "the pictures are not all of one size: each is stretched to the same canvas, and parts that move "
                "cannot be aligned; a line camera gives one size"
            )
        if self.brightest < DIM:
            found.append(
                f"the pictures are dark: no pixel is above {self.brightest} of 255; more light or exposure shows more"
            )
        if self.parts < FEW_PARTS:
            found.append(
                f"{self.parts} different parts are few: the limits rest on them, and the false-reject rate is promised "
                "within a wide interval; 300 or more, of several batches, are better"
            )
        return tuple(found)

    def _size_in_words(self) -> str:
        (height, width), (most_height, most_width) = self.least_px, self.largest_px
        if self.least_px == self.largest_px:
            return f"{width}x{height} pixels each"
        return f"of {width} to {most_width} by {height} to {most_height} pixels"

    def _stillness_in_words(self) -> str:
        left = f"{self.left_share:.0%} of what varies is left by each place's own mean"
        if self.left_share < MOVING_SHARE:
            return f"what they show lies still ({left})"
        if self.left_share < CANONICAL_SHARE:
            return f"what they show moves, or its light changes ({left})"
        return f"what they show differs from picture to picture: in place, in kind or in light ({left})"

    def _bursts_in_words(self) -> str:
        pictures = sum(map(len, self.bursts))
        largest = max(self.bursts, key=len)
        more = f" and {len(largest) - NAMES_SHOWN} more" if len(largest) > NAMES_SHOWN else ""
        return (
            f"{pictures} pictures seem to show only {len(self.bursts)} different parts, some more than once (such as "
            f"{', '.join(largest[:NAMES_SHOWN])}{more}): a part known from its other pictures looks better than a new "
            "one will, so limits promise too much; one picture of each part is right"
        )


@dataclass(slots=True)
class _Seen:
    """What a first reading of all pictures gives; views: (VIEW_PX, VIEW_PX) float32, cells: (CELLS, CELLS, 3)."""

    sizes: list[tuple[int, int]]
    grey: list[bool]
    brightest: int
    prints: list[bytes]
    views: list[NDArray[np.float32]]
    cells: list[NDArray[np.uint8]]


def survey(pictures: Sequence[Picture], progress: Progress = lambda what, done, total: None) -> Survey:
    """Look at good pictures; each is read two to four times.

    Raises TooFewParts for fewer than LEAST_PARTS different ones; DataError where all are the same or some are grey
    and some in colour; and what loading raises.
    """
    seen = _read(pictures, progress)
    different = _checked(seen)
    template, no_part, words = _part([pictures[index] for index in different], seen, progress)
    cells = torch.from_numpy(np.stack([seen.cells[index] for index in different])).permute(0, 3, 1, 2).float()
    left = share_left(cells)
    views = {index: seen.views[index] for index in different}
    crops = _crops(pictures, different, template, views, progress)
    kept = list(views)
    groups = same_parts(np.stack(list(views.values()))) if kept else []
    progress("detail", 1, 1)
    least, usual, largest = (np.quantile(seen.sizes, at, axis=0).round().astype(int).tolist() for at in (0, 0.5, 1))
    return Survey(
        count=len(pictures),
        least_px=(least[0], least[1]),
        usual_px=(usual[0], usual[1]),
        largest_px=(largest[0], largest[1]),
        grey=seen.grey[0],
        brightest=seen.brightest,
        repeated=len(pictures) - len(different),
        bursts=tuple(tuple(pictures[kept[place]].name for place in group) for group in groups),
        template=template,
        no_part=no_part,
        template_words=words,
        left_share=left,
        detail=tuple((pixels, detail_finer_than(crops, pixels)) for pixels in SHARPNESS),
    )


def _read(pictures: Sequence[Picture], progress: Progress) -> _Seen:
    seen = _Seen([], [], 0, [], [], [])
    for done, picture in enumerate(pictures, start=1):
        image = picture.load()
        seen.sizes.append((image.shape[0], image.shape[1]))
        channels = image.astype(np.int16)
        seen.grey.append(bool(np.abs(channels - channels[..., 1:2]).max() <= GREY_STEP))
        seen.brightest = max(seen.brightest, int(image.max()))
        seen.prints.append(hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest())
        seen.views.append(_view(image))
        seen.cells.append(np.asarray(cv2.resize(image, (CELLS, CELLS), interpolation=cv2.INTER_AREA), np.uint8))
        progress("look", done, len(pictures))
    return seen


def _checked(seen: _Seen) -> list[int]:
    """Indices of the pictures that do not repeat an earlier one."""
    first = {each: index for index, each in reversed(list(enumerate(seen.prints)))}
    different = sorted(first.values())
    if len(different) == 1 and len(seen.prints) > 1:
        raise DataError(f"all {len(seen.prints)} pictures are the same: is the camera frozen?")
    if len(different) < LEAST_PARTS:
        raise TooFewParts(
            f"{len(different)} different pictures of good parts: a station needs at least {LEAST_PARTS}, and 300 or "
            "more for tight limits"
        )
    if any(seen.grey) and not all(seen.grey):
        raise DataError(
            f"{sum(seen.grey)} of {len(seen.grey)} pictures are grey, the others in colour: they come from different "
            "cameras or programs; keep those that the line's camera gives"
        )
    return different


def _part(
    pictures: Sequence[Picture], seen: _Seen, progress: Progress
) -> tuple[PartTemplate | None, str, tuple[str, ...]]:
    """The part's template and its words, or why there is none."""
    if len(set(seen.sizes)) > 1:
        return None, "the pictures are of different sizes", ()
    progress("learn the part", 0, 1)
    try:
        learnt = learn_part_template([picture.load for picture in pictures])
    except NoPartSeen as fault:
        return None, str(fault), ()
    except TooFewParts:
        return None, f"{len(pictures)} pictures are too few to learn how a part lies", ()
    finally:
        progress("learn the part", 1, 1)
    return learnt.template, "", learnt.words


def _crops(
    pictures: Sequence[Picture],
    different: Sequence[int],
    template: PartTemplate | None,
    views: dict[int, NDArray[np.float32]],
    progress: Progress,
) -> list[Images]:
    """Some pictures whole, or the square inside the part; with a template, views become those of the aligned part."""
    chosen = set(np.array(different)[np.linspace(0, len(different) - 1, DETAIL_PICTURES).astype(int)].tolist())
    if template is None:
        return [pictures[index].load() for index in sorted(chosen)]
    aligner = Aligner(template)
    crops = []
    for done, index in enumerate(different, start=1):
        image = pictures[index].load()
        progress("align", done, len(different))
        try:
            found = aligner.align(image)
        except Misaligned:
            del views[index]
            continue
        views[index] = np.ascontiguousarray(aligner.seen(image, found).mean(axis=2), np.float32)
        if index in chosen:
            half = template.diameter_px / 2 / np.sqrt(2)
            top, left = max(0, int(found.y - half)), max(0, int(found.x - half))
            crops.append(image[top : int(found.y + half) + 1, left : int(found.x + half) + 1])
    return crops


def _view(image: Images) -> NDArray[np.float32]:
    small = cv2.resize(image, (VIEW_PX, VIEW_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(np.float32).mean(axis=2), np.float32)
