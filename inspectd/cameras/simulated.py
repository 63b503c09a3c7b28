"""The camera `simulated`: an endless stream of rendered capacitors, drawn before the first trigger."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspectd.camera import Shot
from inspectd.camera_sections import SimulatedCameraSettings
from inspectd.cameras.capacitor import draw_good, to_image
from inspectd.cameras.capacitor_defects import (
    LARGEST_PX,
    SMALLEST_PX,
    DefectSpec,
    DefectType,
    Severity,
    add_defect,
)
from inspectd.errors import CameraError
from inspectd.messages import Image, Pose

_PART_STREAM, _DEFECT_STREAM, _CHOICE_STREAM = range(3)


@dataclass(frozen=True, slots=True)
class RenderedPart:
    """One rendered part and the truth about it.

    image: (200, 240, 3) uint8 RGB. mask: (200, 240) uint8, 255 on the defect, else 0. label: "good" or the defect type.
    severity: "" where good. size_px: the defect's longest extent on the 110x50 part, 0 where good. pose: the true pose.
    """

    image: Image
    mask: NDArray[np.uint8]
    label: str
    severity: str
    size_px: float
    pose: Pose


def render_part(seed: int, index: int, defect: DefectSpec | None = None) -> RenderedPart:
    """Render part `index` of the line `seed`; with a defect it is the same good part, plus the defect."""
    scene = draw_good(_seeds(seed, index, _PART_STREAM))
    if defect is None:
        mask = np.zeros(scene.grey.shape, np.uint8)
        return RenderedPart(to_image(scene.grey), mask, "good", "", 0.0, scene.look.pose)
    grey, mask = add_defect(scene, defect, _seeds(seed, index, _DEFECT_STREAM))
    return RenderedPart(to_image(grey), mask, defect.type.value, defect.severity.value, defect.size_px, scene.look.pose)


def choose_defect(seed: int, index: int, share: float) -> DefectSpec | None:
    """Choose what is wrong with part `index`: with probability `share` a random type, severity and size, else None."""
    rng = np.random.Generator(np.random.SFC64(_seeds(seed, index, _CHOICE_STREAM)))
    if rng.random() >= share:
        return None
    kind = list(DefectType)[int(rng.integers(len(DefectType)))]
    severity = list(Severity)[int(rng.integers(len(Severity)))]
    return DefectSpec(kind, severity, round(float(rng.uniform(SMALLEST_PX, LARGEST_PX)), 1))


class SimulatedCamera:
    """The simulated line: `settings.pool` parts, rendered here in the constructor (about 2 ms each), shown in a circle.

    Images are shared by all rounds, hence read-only.
    """

    def __init__(self, settings: SimulatedCameraSettings) -> None:
        self._shots = [_prepare(settings, index) for index in range(settings.pool)]
        self._next = 0

    def grab(self, timeout_s: float) -> Shot:
        """Return the next part at once, without copying. Raises CameraError once closed."""
        if not self._shots:
            raise CameraError("the simulated camera is closed")
        image, source, label = self._shots[self._next]
        self._next = (self._next + 1) % len(self._shots)
        return Shot(image=image, captured_ns=time.monotonic_ns(), source=source, label=label)

    def close(self) -> None:
        """Let go of the images; a second call does nothing."""
        self._shots = []


def _seeds(seed: int, index: int, stream: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(index, stream))


def _prepare(settings: SimulatedCameraSettings, index: int) -> tuple[Image, str, str]:
    part = render_part(settings.seed, index, choose_defect(settings.seed, index, settings.defect_share))
    part.image.setflags(write=False)
    what = f"/{part.severity}/{part.size_px:g}px" if part.severity else ""
    return part.image, f"simulated:{settings.seed}/{index}{what}", part.label
