"""Faults that are planted into the kernels' text, to prove that the checks find them. Not a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.kernels.image import SOURCE


@dataclass(frozen=True, slots=True)
class Fault:
    """A piece of patch_gmsd.cu, which occurs there once, and what stands there instead."""

    name: str
    instead_of: str
    stands: str

    def plant(self, folder: Path) -> Path:
        """Write the faulty text into `folder`; fails where the kernels' text no longer has the piece."""
        text = SOURCE.read_text(encoding="utf-8")
        assert text.count(self.instead_of) == 1, f"{self.name}: {SOURCE.name} has no longer one {self.instead_of!r}"
        path = folder / f"{self.name.replace(' ', '-')}.cu"
        path.write_text(text.replace(self.instead_of, self.stands), encoding="utf-8")
        return path


TILE_BARRIER = "__syncthreads();  // gradients and pools"
REMOVED_BARRIERS = (
    Fault("no barrier after loading", TILE_BARRIER, "//"),
    Fault("no barrier between levels", "__syncthreads();  // the next round pools", "//"),
    Fault("no barrier before levels are overwritten", "__syncthreads();  // `shared` may hold levels", "//"),
    Fault(
        "no barrier before warps are merged",
        "    __syncthreads();\n    if (threadIdx.x == 0)\n        for (int other",
        "    if (threadIdx.x == 0)\n        for (int other",
    ),
    Fault(
        "no barrier before the part score",
        "    __syncthreads();\n    if (threadIdx.x == 0) {\n        float part_score",
        "    if (threadIdx.x == 0) {\n        float part_score",
    ),
)
"""Caught by the order of threads, and by ThreadSanitizer."""
DIVERGENT_BARRIER = Fault("barrier for one warp only", TILE_BARRIER, f"if (threadIdx.x < 32) {TILE_BARRIER}")
OUT_OF_BOUNDS = (
    Fault("patch one row too low", "(pair.first_top + y)", "(pair.first_top + y + 1)"),
    Fault("levels one float too far", "next = start + height * width;", "next = start + height * width + 1;"),
    Fault("a warp too many", "float part_score = highest_of_warp[0];", "float part_score = highest_of_warp[warps];"),
)
"""Caught by AddressSanitizer."""
WRONG_VALUES = (
    Fault("neighbour is the patch itself", "pair.second_left + x", "pair.first_left + x"),
    Fault("first neighbour left out", "int choice = 1;", "int choice = 2;"),
    Fault("lambda lost", "constants[constants_head + region] * gmsd", "gmsd + 0.0f * constants[0]"),
    Fault("lambda of the next region", "constants_head + region]", "constants_head + (region + 1) % stage.regions]"),
    Fault("coarse scales left out", "scale < stage.scales;", "scale < 1;"),
    Fault("last level left out", "level = 1; level < pair.levels;", "level = 1; level + 1 < pair.levels;"),
    Fault("edge not repeated", "clamped(y + 1, height)", "clamped(y + 1, height - 1)"),
    Fault("corners aligned", "(2 * pixel + 1) * count - length", "2 * pixel * count"),
    Fault("blue taken for red", "rgb[0] * k.red", "rgb[2] * k.red"),
    Fault("sum of squares not merged", "step * step * a.count * share", "0.0f"),
    Fault("least is the greatest", "return a < b || a != a", "return a > b || a != a"),
    Fault("part score is the first region's", "other < warps && other", "other < 1 && other"),
)
"""Caught by the reference."""
OF_THE_FIRST_PART = (
    Fault("image of the first part", "part + 3 * pixels * blockIdx.y", "part"),
    Fault("reconstruction of the first part", "reconstruction + pixels * blockIdx.y", "reconstruction"),
    Fault("features of the first part", "feature_scores + (size_t)stage.regions * blockIdx.y", "feature_scores"),
)
"""Caught by the reference where a batch has two parts."""
SHARED_WORKSPACE = Fault("parts share the workspace", "(size_t)stage.workspace_floats * blockIdx.y + ", "")
"""Caught by the workspace's last piece, which then nobody writes."""
SWALLOWED_NAN = (
    Fault("maximum swallows what is not a number", "return a > b || a != a", "return a > b"),
    Fault("minimum swallows what is not a number", "return a < b || a != a", "return a < b"),
)
"""Caught by parts with something that is not a number."""
