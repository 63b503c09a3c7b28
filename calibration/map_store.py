"""Part images, anomaly maps and masks of many parts on disk: memory holds some at a time, however many there are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]
Bools = NDArray[np.bool_]
FLOAT_BYTES = 4


class MapStore:
    """Maps (H, W) float32 and masks (H, W) bool, appended one by one, then read as views of files that have no name.

    5 bytes for each pixel of the canvas and image, in the folder for temporary files (TMPDIR). Used by one thread, in a
    `with` block. Raises OSError where the disk is full.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, int] | None = None
        self._count = 0

    def __enter__(self) -> Self:
        self._maps, self._masks = (
            tempfile.TemporaryFile(prefix="inspectd-maps-")  # noqa: SIM115 - closed at the end of the block
            for _ in range(2)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._maps.close()
        self._masks.close()

    def add(self, anomaly_map: Maps, mask: Bools) -> int:
        """Keep a map and its mask, all of one shape; returns their number."""
        if self._shape is None:
            self._shape = (anomaly_map.shape[0], anomaly_map.shape[1])
        if anomaly_map.shape != self._shape or mask.shape != self._shape:
            raise ValueError(f"maps of {self._shape}, and one of {anomaly_map.shape} with a mask of {mask.shape}")
        self._maps.write(np.ascontiguousarray(anomaly_map, np.float32).data)
        self._masks.write(np.ascontiguousarray(mask, np.bool_).data)
        self._count += 1
        return self._count - 1

    def views(self) -> tuple[Maps, Bools]:
        """All maps and all masks, (N, H, W), which the system reads as they are looked at; N is one at least."""
        shape = (self._count, *(self._shape or (0, 0)))
        self._maps.flush()
        self._masks.flush()
        return (
            np.memmap(self._maps, np.float32, "r", shape=shape),
            np.memmap(self._masks, np.bool_, "r", shape=shape),
        )


class ImageStack:
    """Part images (H, W, 3) uint8, appended one by one to a file without a name, then one array (P, H, W, 3) on disk.

    3 bytes for each pixel of the canvas and part, in the folder for temporary files (TMPDIR). Used in a `with` block,
    which the array outlives. Raises OSError where the disk is full.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self.count = 0

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile(prefix="inspectd-parts-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, image: NDArray[np.uint8]) -> None:
        """Keep one more, of the shape of the others."""
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            raise ValueError(f"part images of {self._shape}, and one of {image.shape}")
        self._file.write(np.ascontiguousarray(image).data)
        self.count += 1

    def array(self) -> NDArray[np.uint8]:
        """All of them, which the system reads as they are looked at; the file goes with the array."""
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r+", shape=(self.count, *self._shape))


def scratch(count: int, folder: Path | None = None) -> Maps:
    """Room for so many float32 on disk, in a file that has no name and goes with the array."""
    with tempfile.TemporaryFile(prefix="inspectd-sort-", dir=folder) as file:
        file.truncate(max(count, 1) * FLOAT_BYTES)
        return np.memmap(file, np.float32, "r+", shape=(max(count, 1),))[:count]
