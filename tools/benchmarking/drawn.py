"""Fewer samples than there are: the same ones for whoever asks with the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Kind = TypeVar("Kind")


def drawn(samples: Sequence[Kind], most: int, seed: int) -> list[Kind]:
    """At most so many of the samples, drawn with the seed, in their order; all where `most` is 0."""
    if most == 0 or len(samples) <= most:
        return list(samples)
    chosen = np.random.default_rng(seed).choice(len(samples), most, replace=False)
    return [samples[index] for index in sorted(chosen.tolist())]
