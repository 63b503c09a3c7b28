"""Evaluation of many images holds a bounded number of them in memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from calibration.map_store import ImageStack, MapStore, scratch

MEASURED = """
import numpy as np, resource
from calibration.map_store import MapStore
from calibration.pixel_metrics import pixel_figures
rng = np.random.default_rng(0)
inside = np.ones((256, 256), bool)
def figure(count):
    with MapStore() as store:
        for number in range(count):
            mask = np.zeros((256, 256), bool)
            mask[:8, :8] = number % 2
            store.add(rng.random((256, 256), np.float32) + mask, mask)
        maps, masks = store.views()
        figures = pixel_figures(list(maps), list(masks), inside, resamples=20)
    return figures.auroc
data = int(next(l for l in open('/proc/self/status') if l.startswith('VmData')).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (data + (64 << 20), resource.RLIM_INFINITY))
assert figure(400) > 0.9
print('done')
"""


def test_views_are_what_was_added() -> None:
    """Bit for bit, in order."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 7, 9)).astype(np.float32)
    masks = rng.random((5, 7, 9)) > 0.5
    with MapStore() as store:
        assert [store.add(one, mask) for one, mask in zip(maps, masks, strict=True)] == list(range(5))
        kept, kept_masks = store.views()
        assert np.array_equal(kept, maps)
        assert np.array_equal(kept_masks, masks)
        with pytest.raises(ValueError, match="one of"):
            store.add(maps[0, :3], masks[0, :3])


def test_part_images_outlive_their_stack() -> None:
    """One array of all of them, that may be written to, when the file has long lost its name."""
    images = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3), np.uint8)
    with ImageStack() as stack:
        for image in images:
            stack.add(image)
        with pytest.raises(ValueError, match="one of"):
            stack.add(images[0, :3])
        kept = stack.array()
    assert np.array_equal(kept, images)
    assert kept.flags.writeable
    assert np.array_equal(kept[[3, 1]], images[[3, 1]])


def test_scratch_room_is_sorted_in_place() -> None:
    """As an array is; none at all is an empty one."""
    room = scratch(1000)
    room[:] = np.random.default_rng(0).normal(size=1000)
    room.sort()
    assert (np.diff(room) >= 0).all()
    assert len(scratch(0)) == 0


def test_four_hundred_images_need_no_more_memory_than_some() -> None:
    """64 MiB for 400 maps of 256x256, which alone would be 100, with their masks and sorted pixels 300."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr[-500:]
