"""What every family's network says of a part, and what every tail scores."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from engines.preprocess import to_grey


class NetworkOutputs(NamedTuple):
    """Level k of `targets` and `imitations`: (N, C_k, H_k, W_k), C_k the channels of all teachers side by side.

    Both are empty where there is no student.
    """

    targets: list[Tensor]
    imitations: list[Tensor]
    attention: Tensor | None  # M_AT of dtkd, logits (N, H_1, W_1)
    planes: Tensor  # (N, 3, H, W), 0..255
    reconstruction: Tensor | None  # grey (N, H, W) in [0, 1]
    defects: Tensor | None  # the discriminator's logits, (N, 1, H_1, W_1)
    unknown: Tensor | None = None  # distance to the nearest remembered patch, (N, 1, h, w)
    finest: Tensor | None = None  # the teachers' first level as it is, (N, C_1, H_1, W_1), where nothing is trained

    @property
    def grey(self) -> Tensor:
        """Grey values of the part image, (N, H, W) in [0, 1]."""
        return to_grey(self.planes)

    def singly(self) -> list[NetworkOutputs]:
        """The same of each part by itself, N = 1; views of these tensors."""
        return [
            NetworkOutputs(
                targets=[level[n : n + 1] for level in self.targets],
                imitations=[level[n : n + 1] for level in self.imitations],
                attention=_one(self.attention, n),
                planes=self.planes[n : n + 1],
                reconstruction=_one(self.reconstruction, n),
                defects=_one(self.defects, n),
                unknown=_one(self.unknown, n),
                finest=_one(self.finest, n),
            )
            for n in range(len(self.planes))
        ]


def _one(tensor: Tensor | None, place: int) -> Tensor | None:
    return None if tensor is None else tensor[place : place + 1]
