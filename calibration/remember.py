"""Good parts -> the memory of their patches, and what it says of each part when it has forgotten it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.k_centre import KCentre
from calibration.stages import Progress
from engines.networks.memory import Memory, WhitenedMemory
from engines.networks.teacher_network import TeacherNetwork
from engines.preprocess import to_planes
from engines.scoring import region_masks
from engines.settings import CanvasSettings, RegionSettings
from engines.teachers import memory_grid

Images = NDArray[np.uint8]
CHUNK: Final = 2
"""Images that pass through the teachers at once: with more, what they compute falls out of a processor's cache."""
POOL: Final = 131_072
"""Patches that the kept ones are chosen from: all of 128 parts of 256x256, else as many by the seed."""
DESCRIBING: Final = 64
"""Images, evenly spread, that the components are fitted to."""
LEAST_DEVIATION: Final = 0.05
"""Of a channel, in mean deviations: what almost never fires on good parts would count twentyfold where it does."""
SHRINKAGE: Final = 0.1
"""Share of the mean variance that is added to each component's before it is whitened."""
CACHE_BYTES: Final = 1 << 30
"""Patches of all parts are kept up to this size, else computed a second time."""
ONE_BY_ONE: Final = 20
"""Up to so many parts each is left out alone; more are left out in FOLDS groups."""
FOLDS: Final = 10


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

    parts: (P,) the part that each image shows; probes: other images, of the same parts. Each image's map is that by a
    memory of the other parts alone, whose components stay: what a new part would get. Only cells that touch a region
    are remembered. `progress(what, done, total)` counts images, then groups that are left out. Raises ValueError for a
    network without a memory.
    """
    memory = network.memory
    if memory is None:
        raise ValueError("the network has no memory")
    cells = memory_grid(network.model.teachers[0], canvas)
    inside = torch.from_numpy(region_masks(canvas.height_px, canvas.width_px, regions, cells).any(axis=0)).flatten()
    with torch.no_grad():
        if isinstance(memory, WhitenedMemory):
            _describe(network, memory, images, inside)
        patches = _Patches(network, memory, images, progress)
        pool, owners = _pool(patches, parts, inside, seed)
        choice = KCentre(pool).grow(network.model.memory_patches)
        memory.patches = pool[choice.chosen].clone()
        others = None if probes is None else (_Patches(network, memory, probes.images, progress), probes.parts)
        return _left_out(patches, parts, memory, choice, owners, progress, others)


@dataclass(frozen=True, slots=True)
class Probes:
    """Images (Q, H, W, 3) uint8 RGB that are not remembered, and the part (Q,) that must be forgotten for each."""

    images: Images
    parts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recalled:
    """Left-out distance maps of the remembered images, (P, h, w), and of the probes, (Q, h, w), on its grid."""

    maps: NDArray[np.float32]
    probes: NDArray[np.float32]


class _Patches:
    """The components (cells, D) of every image, kept where all fit into CACHE_BYTES, else computed again."""

    def __init__(self, network: TeacherNetwork, memory: Memory, images: Images, progress: Progress) -> None:
        self._network, self._memory, self._images, self._progress = network, memory, images, progress
        self._kept: Tensor | None = None
        one = self._chunk(images[:1])
        self.grid = one.shape[2:]
        if one.nbytes * len(images) <= CACHE_BYTES:
            self._kept = torch.empty(len(images), *one.shape[1:])
            for rows, chunk in self._computed():
                self._kept[rows] = chunk

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of images: which, and their components (n, D, h, w)."""
        if self._kept is None:
            return self._computed()
        return iter([(slice(0, len(self._kept)), self._kept)])

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """Components (n, D, h, w) of the images with these indices."""
        if self._kept is not None:
            return self._kept[torch.from_numpy(rows)]
        return torch.cat([self._chunk(self._images[rows[i : i + CHUNK]]) for i in range(0, len(rows), CHUNK)])

    def _computed(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self._images), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self._images)))
            yield rows, self._chunk(self._images[rows])
            self._progress("read features", rows.stop, len(self._images))

    def _chunk(self, images: Images) -> Tensor:
        return self._memory.components(self._network.remembered(_planes(images)))


def _describe(network: TeacherNetwork, memory: WhitenedMemory, images: Images, inside: Tensor) -> None:
    """Fit the memory's components: channels standardised, principal directions, each divided by its spread."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(DESCRIBING, len(images))).round().astype(np.int64))
    plain = WhitenedMemory(memory.channels)  # with the identity for a projection, it averages and resizes
    channels = sum(memory.channels)
    plain.shift = torch.zeros(channels)
    for k, part in enumerate(torch.split(torch.eye(channels), list(memory.channels), dim=1)):
        plain.register_buffer(f"projection_{k}", part)
    rows = []
    for start in range(0, len(chosen), CHUNK):
        seen = plain.components(network.remembered(_planes(images[chosen[start : start + CHUNK]])))
        rows.append(seen.flatten(2)[:, :, inside].permute(0, 2, 1).flatten(0, 1))
    features = torch.cat(rows)
    memory.describe(*whitening(features, len(memory.shift)))


def whitening(features: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Projection (D, C) and shift (D,) of features (M, C): x -> projection @ x + shift, white over these features."""
    mean = features.mean(dim=0).double()
    deviation = features.double().std(dim=0, correction=0)
    deviation = deviation.clamp_min(max(LEAST_DEVIATION * float(deviation.mean()), 1e-6))
    standard = ((features - mean.float()) / deviation.float()).double()
    values, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
    scaled = vectors / (values + SHRINKAGE * values.mean()).clamp_min(1e-12).sqrt()
    projection = scaled.T / deviation
    return projection.float(), (-projection @ mean).float()


def _pool(patches: _Patches, parts: NDArray[np.int64], inside: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """At most POOL patches (M, D) of all parts, in an order that the seed decides, and the part of each, (M,)."""
    cells = int(inside.sum())
    order = np.random.default_rng([seed, len(parts)]).permutation(len(parts) * cells)[:POOL]
    image, cell = np.divmod(order, cells)
    pool: Tensor | None = None
    for rows, chunk in patches:
        mine = np.flatnonzero((image >= rows.start) & (image < rows.stop))
        flat = chunk.flatten(2)[:, :, inside]  # n, D, cells
        taken = flat[torch.from_numpy(image[mine] - rows.start), :, torch.from_numpy(cell[mine])]
        if pool is None:
            pool = torch.empty(len(order), flat.shape[1])
        pool[torch.from_numpy(mine)] = taken
    if pool is None:
        raise ValueError("no images to remember")
    return pool, torch.from_numpy(parts[image])


def _left_out(  # noqa: PLR0917  (whose patches, and what is left out of which choice)
    patches: _Patches,
    parts: NDArray[np.int64],
    memory: Memory,
    choice: KCentre,
    owners: Tensor,
    progress: Progress,
    probes: tuple[_Patches, NDArray[np.int64]] | None,
) -> Recalled:
    """Each image's distances by a choice from the patches of parts outside its group; owners: (M,) of the pool."""
    everything, size = memory.patches, len(choice.chosen)
    known = np.unique(parts)
    folds = len(known) if len(known) <= ONE_BY_ONE else FOLDS
    maps = np.zeros((len(parts), *patches.grid), np.float32)
    others = np.zeros((0 if probes is None else len(probes[1]), *patches.grid), np.float32)
    looked_at = [(patches, parts, maps)] if probes is None else [(patches, parts, maps), (*probes, others)]
    try:
        for fold in range(folds):
            gone = known[fold::folds]
            rest = choice.without(torch.isin(owners, torch.from_numpy(gone))).grow(size)
            memory.patches = rest.patches[rest.chosen]
            for shown, of, found in looked_at:
                for row in np.flatnonzero(np.isin(of, gone)):
                    found[row] = memory.distances(shown.of(np.array([row])))[0, 0].numpy()
            progress("left-out parts", fold + 1, folds)
    finally:
        memory.patches = everything
    return Recalled(maps, others)


def _planes(images: Images) -> Tensor:
    return to_planes(torch.from_numpy(np.ascontiguousarray(images)))
