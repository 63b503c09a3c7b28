"""Good parts -> the memory of their patches, and what it says of each part when it has forgotten it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.compiled_teachers import Features, features_of
from calibration.k_centre import KCentre
from calibration.stages import Progress
from calibration.surface_statistics import SurfaceStatistics
from calibration.whitening import WhiteningStatistics
from engines.networks.memory import COMPONENTS, Memory, WhitenedMemory
from engines.networks.memory_tail import Readings, Surface
from engines.networks.outputs import NetworkOutputs
from engines.networks.teacher_network import TeacherNetwork
from engines.preprocess import to_planes
from engines.scoring import READINGS, SurfaceConstants, region_masks
from engines.settings import CanvasSettings, RegionSettings
from engines.teachers import memory_grid

Images = NDArray[np.uint8]
CHUNK: Final = 2
"""Images that pass through the teachers at once: with more, what they compute falls out of a processor's cache."""
POOL: Final = 131_072
"""Patches that the kept ones are chosen from: all of 128 parts of 256x256, else as many by the seed."""
DESCRIBING: Final = 64
"""Images, evenly spread, that the components are fitted to."""
CACHE_BYTES: Final = 1 << 30
"""Patches of all parts are kept up to this size, else computed a second time."""
ONE_BY_ONE: Final = 20
"""Up to so many parts each is left out alone; more are left out in FOLDS groups."""
FOLDS: Final = 10
ROWS: Final = 16_384
"""Patches that are brought to components at once."""
CELLS: Final = 256
RARE: Final = 0.99
"""Quantile of good parts' cells that is 1 in the units of the anomaly map."""


def fill_memory(
    network: TeacherNetwork,
    images: Images,
    parts: NDArray[np.int64],
    *,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    seed: int,
    progress: Progress,
    probes: Probes | None = None,
) -> Recalled:
    """Fill the network's memory with patches of images (P, H, W, 3) uint8 RGB, and say how unusual each part is.

    parts: (P,) the part that each image shows; probes: other images, of the same parts. What is said of an image
    comes from components, a memory and statistics of the other parts alone: it is what a new part would get. Only
    cells that touch a region count. `progress(what, done, total)` counts images, then groups that are left out.
    Raises ValueError for a network without a memory.
    """
    memory = network.memory
    if memory is None:
        raise ValueError("the network has no memory")
    cells = memory_grid(network.model.teachers[0], canvas)
    inside = torch.from_numpy(region_masks(canvas.height_px, canvas.width_px, regions, cells).any(axis=0)).flatten()
    known = np.unique(parts)
    folds = len(known) if len(known) <= ONE_BY_ONE else FOLDS
    fold_of = np.searchsorted(known, parts) % folds
    statistics = SurfaceStatistics(folds, canvas, regions)
    count = len(images) + (0 if probes is None else len(probes.images))
    features = features_of(network, canvas, network.model.teacher_levels, count)
    with torch.no_grad():

        def look(rows: slice, levels: Sequence[Tensor], planes: Tensor) -> None:
            statistics.add(fold_of[rows], network.finest(levels), planes)

        patches = _Patches(network, memory, features, images, progress, look)
        described = None
        if isinstance(memory, WhitenedMemory):
            described = _describe(memory, patches, fold_of, folds, inside)
        pool, owners = _pool(patches, parts, inside, seed)
        choice = KCentre(_fitted(memory, pool)).grow(network.model.memory_patches)
        everything = choice.patches[choice.chosen].clone()
        read = Readings(canvas, regions, READINGS, cells)
        maps = 3 if network.has_finest else 2
        shown = [_Shown(images, parts, patches, maps)]
        if probes is not None:
            theirs = _Patches(network, memory, features, probes.images, progress)
            shown.append(_Shown(probes.images, probes.parts, theirs, maps))
        for fold in range(folds):
            gone = known[fold::folds]
            lost = torch.isin(owners, torch.from_numpy(gone))
            rest = choice.without(lost).grow(len(choice.chosen))
            if isinstance(memory, WhitenedMemory) and described is not None:
                memory.describe(*described.whitening(COMPONENTS, without=fold))
            memory.patches = _fitted(memory, pool[torch.nonzero(~lost)[:, 0][rest.chosen]])
            surface = Surface(statistics.constants(without=fold))
            for each in shown:
                each.look(network, surface, read, gone)
            progress("left-out parts", fold + 1, folds)
        if isinstance(memory, WhitenedMemory) and described is not None:
            memory.describe(*described.whitening(COMPONENTS))
        memory.patches = everything
        whole = statistics.constants(units=_cell_units(shown[0]))
    probed = shown[-1].read if probes is not None else shown[0].read[:0]
    return Recalled(shown[0].maps, shown[0].read, whole, probed)


class _Shown:
    """Images, and what is said of each by what the others of its group know: maps (n, h, w), read (n, V, R).

    cells: (n, maps, CELLS) values of memory, fine (if any) and tint map at places spread over the part.
    """

    def __init__(self, images: Images, parts: NDArray[np.int64], patches: _Patches, maps: int) -> None:
        self._images, self._parts, self._patches = images, parts, patches
        self.maps = np.zeros((len(images), *patches.grid), np.float32)
        self.read: NDArray[np.float64] = np.zeros((len(images), 0, 0))
        self.cells = np.zeros((len(images), maps, CELLS), np.float32)

    def look(self, network: TeacherNetwork, surface: Surface, read: Readings, gone: NDArray[np.int64]) -> None:
        """Fill in the images of the parts `gone`, of which the network's memory knows nothing."""
        memory = network.memory
        if memory is None:
            raise ValueError("the network has no memory")
        for row in np.flatnonzero(np.isin(self._parts, gone)):
            planes = _planes(self._images[row : row + 1])
            distances = memory.distances(memory.fitted(self._patches.of(np.array([row]))))
            finest = self._patches.finest(planes)
            outputs = NetworkOutputs([], [], None, planes, None, None, distances, finest)
            found = surface(outputs)
            raw = read(distances)[0].double().numpy()
            if self.read.shape[1:] != raw.shape:
                self.read = np.zeros((len(self._images), *raw.shape))
            self.maps[row], self.read[row] = distances[0, 0].numpy(), raw
            for place, each in enumerate((distances, *found.values())):
                flat = each.flatten()
                self.cells[row, place] = flat[torch.linspace(0, len(flat) - 1, CELLS).long()].numpy()


def _cell_units(shown: _Shown) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Location and scale of a cell of each map: median, and from there to the RARE quantile."""
    flat = shown.cells.transpose(1, 0, 2).reshape(shown.cells.shape[1], -1)
    middle = np.median(flat, axis=1)
    return middle.astype(np.float32), np.maximum(np.quantile(flat, RARE, axis=1) - middle, 1e-3).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Probes:
    """Images (Q, H, W, 3) uint8 RGB that are not remembered, and the part (Q,) that must be forgotten for each."""

    images: Images
    parts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is said of images by all other parts.

    maps: (P, h, w) distances on the memory's grid; read (P, V, R) and probed (Q, V, R): READINGS of the images that are
    remembered and of probes. surface: statistics of all parts, for the engine.
    """

    maps: NDArray[np.float32]
    read: NDArray[np.float64]
    surface: SurfaceConstants
    probed: NDArray[np.float64]


Look = Callable[[slice, Sequence[Tensor], Tensor], None]
"""Told once of each chunk of images: which, the teachers' levels and the planes."""


class _Patches:
    """What a memory gathers of every image, kept where all fit into CACHE_BYTES, else computed again."""

    def __init__(  # noqa: PLR0917  (what is looked at, by what, and who is told)
        self,
        network: TeacherNetwork,
        memory: Memory,
        features: Features,
        images: Images,
        progress: Progress,
        look: Look | None = None,
    ) -> None:
        self._network, self._memory, self._images, self._progress = network, memory, images, progress
        self._features = features
        self._kept: Tensor | None = None
        self._look = look
        one = self._chunk(images[:1])
        self.grid = one.shape[2:]
        if one.nbytes * len(images) <= CACHE_BYTES:
            kept = torch.empty(len(images), *one.shape[1:])
            for rows, chunk in self._computed():
                kept[rows] = chunk
            self._kept = kept

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of images: which, and what was gathered of them (n, C, h, w)."""
        if self._kept is None:
            return self._computed()
        return iter([(slice(0, len(self._kept)), self._kept)])

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """The same for the images with these indices."""
        if self._kept is not None:
            return self._kept[torch.from_numpy(rows)]
        return torch.cat([self._chunk(self._images[rows[i : i + CHUNK]]) for i in range(0, len(rows), CHUNK)])

    def finest(self, planes: Tensor) -> Tensor | None:
        """`TeacherNetwork.finest` of planes (N, 3, H, W)."""
        return self._network.finest(self._features(planes, 1))

    def _computed(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self._images), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self._images)))
            yield rows, self._chunk(self._images[rows], rows)
            self._progress("read features", rows.stop, len(self._images))
        self._look = None

    def _chunk(self, images: Images, rows: slice | None = None) -> Tensor:
        planes = _planes(images)
        levels = self._features(planes, self._network.model.teacher_levels)
        if self._look is not None and rows is not None:
            self._look(rows, levels, planes)
        return self._memory.gathered([levels[k] for k in self._network.memory_levels])


def _describe(
    memory: WhitenedMemory, patches: _Patches, fold_of: NDArray[np.int64], folds: int, inside: Tensor
) -> WhiteningStatistics:
    """Statistics, by fold, of what up to DESCRIBING evenly spread images show; the memory takes components of all."""
    count = len(fold_of)
    statistics = WhiteningStatistics(folds, sum(memory.channels))
    for row in np.unique(np.linspace(0, count - 1, min(DESCRIBING, count)).round().astype(np.int64)):
        seen = patches.of(np.array([row]))[0].flatten(1)[:, inside].T
        statistics.add(int(fold_of[row]), seen)
    memory.describe(*statistics.whitening(COMPONENTS))
    return statistics


def _pool(patches: _Patches, parts: NDArray[np.int64], inside: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What was gathered at POOL places at most, (M, C), drawn by the seed, and the part of each, (M,)."""
    cells = int(inside.sum())
    order = np.random.default_rng([seed, len(parts)]).permutation(len(parts) * cells)[:POOL]
    image, cell = np.divmod(order, cells)
    pool: Tensor | None = None
    for rows, chunk in patches:
        mine = np.flatnonzero((image >= rows.start) & (image < rows.stop))
        flat = chunk.flatten(2)[:, :, inside]  # n, C, cells
        taken = flat[torch.from_numpy(image[mine] - rows.start), :, torch.from_numpy(cell[mine])]
        if pool is None:
            pool = torch.empty(len(order), flat.shape[1])
        pool[torch.from_numpy(mine)] = taken
    if pool is None:
        raise ValueError("no images to remember")
    return pool, torch.from_numpy(parts[image])


def _fitted(memory: Memory, gathered: Tensor) -> Tensor:
    """Patches (M, D) of what was gathered at single places, (M, C)."""
    rows = [memory.fitted(part[:, :, None, None])[:, :, 0, 0] for part in torch.split(gathered, ROWS)]
    return torch.cat(rows)


def _planes(images: Images) -> Tensor:
    return to_planes(torch.from_numpy(np.ascontiguousarray(images)))
