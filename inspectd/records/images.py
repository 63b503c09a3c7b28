"""The stage that keeps pictures: rejected and invalid parts and each n-th passed one, as PNG, off the verdict path."""

from __future__ import annotations

import datetime
import hashlib
import os
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

    def run(self, stop: Event) -> None:
        """Write images until `stop` is set and the inbox is empty."""
        while not (stop.is_set() and not self._inbox.poll(0)):
            self._meters.beat(Stage.IMAGES)
            if self._inbox.poll(IDLE_MS):
                self.step()

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
            stored = self.write(record.verdict, record.image)
        except (OSError, cv2.error) as error:
            self._refused(error)
            return
        if self._broken:
            self._broken = False
            self._meters.set_storage_fault(Stage.IMAGES, "")
            log.info("images are written again")
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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        try:
            temporary.write_bytes(data.data)
            os.replace(temporary, path)  # noqa: PTH105 - replaces
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sha256 = hashlib.sha256(data.data).hexdigest()
        return StoredImage(seq=verdict.seq, path=name, size_bytes=data.size, sha256=sha256)

    def _refused(self, error: Exception) -> None:
        self._meters.count(Count.IMAGES_DROPPED)
        self._meters.count(Count.STORAGE_FAULTS)
        if not self._broken:
            self._broken = True
            self._meters.set_storage_fault(Stage.IMAGES, f"images cannot be written: {error}")
            log.error("images cannot be written; verdicts and records go on: free space", why=str(error))
