"""The images that a camera gave lately, as digests: whether one has come before, over any reopening of the device."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from inspectd.messages import DeepImage

REMEMBERED: Final = 256
"""More than any driver has buffers: one that hands out old buffers in turn is found, too."""
HASHED_BYTES: Final = 4_000_000
"""Of a larger image every second, third, ... row is hashed. Noise makes any two exposures differ in every row."""
DIGEST_BYTES: Final = 16


class SeenImages:
    """Remembers the last REMEMBERED different images. Used by one thread; outlives the device that gave them."""

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def is_new(self, image: DeepImage) -> bool:
        """Whether this image (H, W, 3) differs from all that are remembered; it is remembered from now on."""
        digest = _digest(image)
        new = digest not in self._digests
        self._digests[digest] = None
        self._digests.move_to_end(digest)
        if len(self._digests) > REMEMBERED:
            self._digests.popitem(last=False)
        return new


def _digest(image: DeepImage) -> bytes:
    step = -(-image.nbytes // HASHED_BYTES)
    rows = image[::step] if step > 1 else image
    found = hashlib.blake2b(repr(image.shape).encode(), digest_size=DIGEST_BYTES)
    found.update(rows.tobytes() if not rows.flags.c_contiguous else rows.data)
    return found.digest()
