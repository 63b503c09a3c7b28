"""The stage that keeps pictures: rejected and invalid parts and each n-th passed one, as PNG, off the verdict path."""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from threading import Event

import cv2
import structlog

from inspectd.health.meters import Count, Meters, Stage
from inspectd.messages import DeepImage, Outcome, Reason, Record, StoredImage, Verdict
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive, send

IDLE_MS = 100
FAST_COMPRESSION = 1
LEFT_TO_ROWS_BYTES = 8 * 2**20
"""Of a disk's last room: some thirteen thousand rows. Images end before it does."""
TRY_EVERY_S = 1.0
MOST_TRIES = 10
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
log = structlog.get_logger(__name__)


class ImagePolicy:
    """Which images are kept: of every rejected and invalid part, and of each `every`-th passed one (0: of none).

    A part that nobody had time for counts as a passed one: its image says nothing of the fault, and writing it would
    take time from the parts that can still be inspected.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._seldom = 0

    def __call__(self, verdict: Verdict) -> bool:
        """True where this part's image is kept, as that of a challenge part always is; counts those kept seldom."""
        if verdict.challenge or (verdict.outcome is not Outcome.PASS and verdict.reason is not Reason.OVERLOAD):
            return True
        self._seldom += 1
        return self._every > 0 and (self._seldom - 1) % self._every == 0


class ImageKeeper:
    """Records with images -> files under images/YYYY-MM-DD/, each then reported to the recorder."""

    def __init__(self, folder: Path, *, inbox: Socket, rows: Socket, meters: Meters) -> None:
        self._folder = folder
        self._inbox, self._rows = inbox, rows
        self._meters = meters
        self._broken = False
        self._next_try_s = 0.0

    def run(self, stop: Event) -> None:
        """Write images until `stop` is set and the inbox is empty."""
        while not (stop.is_set() and not self._inbox.poll(0)):
            self._meters.beat(Stage.IMAGES)
            if self._inbox.poll(IDLE_MS):
                self.step()
            elif self._broken and time.monotonic() >= self._next_try_s:
                self._try_again()

    def step(self) -> None:
        """Write one image; a refusal by the disk is logged once, counted, and costs only the image."""
        try:
            record = receive(self._inbox)
        except WireError:
            self._meters.count(Count.IMAGES_DROPPED)
            return
        if not isinstance(record, Record) or record.image is None:
            return
        try:
            self._leave_room(record.image.nbytes)
            stored = self.write(record.verdict, record.image)
        except (OSError, cv2.error) as error:
            self._meters.count(Count.IMAGES_DROPPED)
            self._refused(error)
            return
        self._works_again()
        if send(self._rows, stored):
            self._meters.count(Count.IMAGES)
            return
        (self._folder / stored.path).unlink(missing_ok=True)  # retention knows only what the database knows
        self._meters.count(Count.IMAGES_DROPPED)

    def write(self, verdict: Verdict, image: DeepImage) -> StoredImage:
        """Write an (H, W, 3) RGB image, uint8 or uint16, as PNG, whole or not at all. Raises OSError, cv2.error."""
        day = datetime.datetime.fromtimestamp(verdict.trigger_wall_ns / 1e9, datetime.UTC).date().isoformat()
        name = f"images/{day}/{verdict.seq:010d}-{verdict.outcome.value}.png"
        path = self._folder / name
        done, data = cv2.imencode(
            ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, FAST_COMPRESSION]
        )
        if not done:
            raise OSError(f"{path}: the image cannot be encoded")
        _put(path, data.data)
        sha256 = hashlib.sha256(data.data).hexdigest()
        return StoredImage(seq=verdict.seq, path=name, size_bytes=data.size, sha256=sha256)

    def _leave_room(self, size_bytes: int) -> None:
        """Raise OSError where the disk's last room is for rows: they come first."""
        if self._meters.rows_refused:
            raise OSError(errno.ENOSPC, "records come first, and the disk refuses them")
        if shutil.disk_usage(self._folder).free < LEFT_TO_ROWS_BYTES + size_bytes:
            raise OSError(errno.ENOSPC, f"the last {LEFT_TO_ROWS_BYTES >> 20} MiB of the disk are left to the records")

    def _try_again(self) -> None:
        """Whether an image could be written now, though none came: else the fault would last until the next one."""
        self._next_try_s = time.monotonic() + TRY_EVERY_S
        trial = self._folder / "images" / "trial.png"
        try:
            self._leave_room(0)
            _put(trial, bytes(1))
            trial.unlink()
        except OSError as error:
            self._refused(error)
            return
        self._works_again()

    def _works_again(self) -> None:
        if self._broken:
            self._broken = False
            self._meters.set_storage_fault(Stage.IMAGES, "")
            log.info("images are written again")

    def _refused(self, error: Exception) -> None:
        self._meters.count(Count.STORAGE_FAULTS)
        short = isinstance(error, OSError) and error.errno in _NO_SPACE
        remedy = "free space" if short else "check the folder and its permissions"
        self._meters.set_storage_fault(Stage.IMAGES, f"images cannot be written: {error}; {remedy}")
        if not self._broken:
            self._broken = True
            log.error("images cannot be written; verdicts and records go on", why=str(error), remedy=remedy)


def _put(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all, and its folder, which retention may remove meanwhile. Raises OSError."""
    temporary = path.with_suffix(".part")
    for tries_left in reversed(range(MOST_TRIES)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)  # noqa: PTH105 - replaces
        except FileNotFoundError:  # the folder was empty for a moment, and was taken away
            if not tries_left:
                raise
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        else:
            return
