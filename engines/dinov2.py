"""DINOv2 ViT-S/14 (Oquab et al., TMLR 2024) cut for a memory of patches: planes in, one grid of features of stride 14.

A feature is the mean of what blocks 3 to 10 of 12 give, not normalised by the last layer norm; the last two blocks are
not run. The position embedding is brought to the canvas's grid when the network is built, so that the graph is static.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.settings import CanvasSettings

PATCH: Final = 14
"""Pixels per patch of the image that the network sees."""
BLOCKS: Final = (3, 10)
"""First and last block, counted from 1, whose outputs are averaged."""
WIDTH: Final = 384
"""Channels of a token."""
_POSITIONS: Final = "pos_embed"
_UNUSED: Final = ("mask_token", "norm.", *(f"blocks.{k}." for k in range(BLOCKS[1], 12)))
"""Weights of the whole network that its first blocks do without."""


def patch_grid(canvas: CanvasSettings) -> tuple[int, int]:
    """Rows and columns of patches: the canvas is seen at the nearest multiples of 14 that are not above its sides."""
    return canvas.height_px // PATCH, canvas.width_px // PATCH


class Embedding(nn.Module):
    """Normalised planes (N, 3, H, W) -> tokens (N, 1 + rows * columns, WIDTH): the class, then patches row by row."""

    def __init__(self, network: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.projection = network.patch_embed.proj
        self.size = (grid[0] * PATCH, grid[1] * PATCH)
        positions = getattr(network, _POSITIONS).detach()
        self.register_buffer(
            "positions", torch.cat([positions[:, :1] + network.cls_token.detach(), positions[:, 1:]], 1)
        )
        self.positions: Tensor

    def forward(self, planes: Tensor) -> Tensor:
        """Resize bilinearly where the sides are no multiples of 14, then embed."""
        if planes.shape[2:] != self.size:
            planes = functional.interpolate(planes, size=self.size, mode="bilinear", align_corners=False)
        patches = self.projection(planes).flatten(2).transpose(1, 2)  # N, C, h, w -> N, h * w, C
        tokens: Tensor = functional.pad(patches, (0, 0, 1, 0)) + self.positions  # the class token stands in `positions`
        return tokens


class Encoder(nn.Module):
    """Tokens (N, 1 + rows * columns, WIDTH) -> the mean of the middle blocks' patches, (N, WIDTH, rows, columns)."""

    def __init__(self, network: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(list(network.blocks)[: BLOCKS[1]])
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the blocks; the class token is left out at the end."""
        total: Tensor | None = None
        for place, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if place >= BLOCKS[0]:
                total = tokens if total is None else total + tokens
        if total is None:
            raise ValueError("no block is averaged")
        mean = total[:, 1:] * (1.0 / (BLOCKS[1] - BLOCKS[0] + 1))
        return mean.transpose(1, 2).reshape(len(tokens), WIDTH, *self.grid)


def untrained_network(grid: tuple[int, int]) -> nn.Module:
    """timm's network for a grid of so many rows and columns, with its first weights."""
    network: nn.Module = timm.create_model(
        "vit_small_patch14_dinov2",
        pretrained=False,
        num_classes=0,
        img_size=(grid[0] * PATCH, grid[1] * PATCH),
        init_values=1.0,  # of the layer scales, as Meta's own code has it; with timm's 1e-5 blocks would do nothing
    )
    return network


def cut(network: nn.Module, grid: tuple[int, int]) -> nn.ModuleList:
    """The two stages of a network that is built for this grid: Embedding, Encoder."""
    return nn.ModuleList([Embedding(network, grid), Encoder(network, grid)])


def for_grid(state: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """A published network's weights, in timm's or Meta's names, with its positions (1, 1 + n * n, C) for this grid.

    Interpolated bicubically, corners not aligned, as the published network was in its training. Raises ValueError for
    positions of no square.
    """
    made = {name: value for name, value in state.items() if not name.startswith(_UNUSED)}
    positions = made.get(_POSITIONS)
    if positions is None:
        return made
    side = round((positions.shape[1] - 1) ** 0.5)
    if positions.ndim != 3 or side * side + 1 != positions.shape[1]:
        raise ValueError(f"{_POSITIONS} {tuple(positions.shape)} is not of a square of patches")
    patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (side, side) != grid:
        patches = functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    made[_POSITIONS] = torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1).contiguous()
    return made


def needed(name: str) -> bool:
    """Whether a weight of the whole network is one of those that the first blocks need."""
    return not name.startswith(_UNUSED)
