"""What good parts look like, as the discriminator needs it: their mean, how they vary, how the surface is grained."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engines.networks.discriminator import Discriminator

GREY_STEP = 1.0
"""Added to variances, in squared grey levels: rounding to 8 bits and what few parts cannot show."""
SURFACE_SIDE = 21
"""Side of the square within which a place's own surface is looked for, in view pixels."""
SURFACE_QUANTILE = 0.25
"""Of the deviations in that square: below it lies surface, above it edges, which vary more than surface does."""
CANONICAL_SHARE = 0.5
"""Parts are in canonical pose where a place's own mean leaves less than this share of the variance."""
ISOTROPIC_SHARE = 0.6
"""Surfaces have no direction where the smaller of the two mean squared slopes is at least this share of the larger."""


def in_canonical_pose(maps: Tensor) -> bool:
    """Whether each place of good parts' maps (P, C, h, w) has a mean of its own: parts in one pose, no texture."""
    return share_left(maps) < CANONICAL_SHARE


def share_left(maps: Tensor) -> float:
    """What of the variance of good parts' maps (P, C, h, w) is left about each place's own mean; about 1 for textures.

    Of the second half of the parts, by means of the first; 1 where nothing varies.
    """
    half = len(maps) // 2
    own = (maps[half:] - maps[:half].mean(dim=0)).square().mean()
    common = (maps[half:] - maps[:half].mean(dim=(0, 2, 3))[:, None, None]).square().mean()
    return float(own / common) if common > 0 else 1.0


def has_no_direction(seen: Tensor) -> bool:
    """Whether good parts (P, 3, h, w) of 0..255 change as much from row to row as from column to column: no grain.

    Turned by a quarter, parts with a grain look like none that the line makes.
    """
    grey = seen.mean(dim=1)
    across, down = grey.diff(dim=2).square().mean(), grey.diff(dim=1).square().mean()
    return bool(torch.minimum(across, down) >= ISOTROPIC_SHARE * torch.maximum(across, down))


def introduce(discriminator: Discriminator, seen: Tensor, inside: Tensor, *, canonical: bool) -> None:
    """Tell the discriminator what good parts (P, 3, h, w) of 0..255 look like, before the first step of training.

    inside: (h, w) bool, what belongs to a region. Without a canonical pose every place is told the same.
    """
    over = (0,) if canonical else (0, 2, 3)
    mean = seen.mean(dim=over, keepdim=True)[0]
    deviation = (seen.var(dim=over, correction=0, keepdim=True)[0] + GREY_STEP).sqrt()
    discriminator.mean.copy_(mean)
    detail = (discriminator.detail(seen).square().mean(dim=over, keepdim=True)[0] + GREY_STEP).sqrt()
    noise = surface_noise(detail[0], inside) if canonical else detail
    discriminator.gain.copy_(1.0 / deviation)
    discriminator.detail_gain.copy_(1.0 / detail)
    discriminator.noise_gain.copy_(1.0 / noise)


def surface_noise(detail: Tensor, inside: Tensor) -> Tensor:
    """Deviation (h, w) of the surface around each place: SURFACE_QUANTILE of the `detail` deviations inside regions."""
    known = detail.masked_fill(~inside, torch.nan)[None, None]
    padded = functional.pad(known, (SURFACE_SIDE // 2,) * 4, value=torch.nan)
    squares = functional.unfold(padded, SURFACE_SIDE)[0]  # SURFACE_SIDE^2, h * w
    noise = torch.nanquantile(squares, SURFACE_QUANTILE, dim=0).reshape(detail.shape)
    return noise.nan_to_num(nan=float(noise.nanmean()))
