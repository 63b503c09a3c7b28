"""The directions that a student of reverse distillation learns, given the lengths of what it imitates."""

from __future__ import annotations

from torch import Tensor

SHORTEST = 1e-6
"""Least length of a vector that is scaled."""


def lengthened(imitation: Tensor, target: Tensor) -> Tensor:
    """The vectors over channels of `imitation`, brought to the lengths of those of `target`; both (N, C, H, W).

    The cosine stays what it was, and the residual gets a meaning.
    """
    return imitation * (_length(target) / _length(imitation))


def _length(level: Tensor) -> Tensor:
    """L2 norm of the vector at each position: (N, C, H, W) -> (N, 1, H, W)."""
    return level.square().sum(dim=1, keepdim=True).sqrt().clamp_min(SHORTEST)
