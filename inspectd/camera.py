"""The Camera protocol, and the acquisition thread: trigger -> camera -> frame."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Event, Semaphore
from typing import Protocol

from inspectd.errors import CameraError, CameraLost, CameraTimeout, EndOfFootage, ImageRepeated
from inspectd.health.meters import Count, Meters, Stage
from inspectd.messages import DeepImage, Fault, Frame, Reason, Trigger
from inspectd.register import Register
from inspectd.trigger_message import Ask
from inspectd.wire.sockets import Socket, receive, send

NS_PER_MS = 1_000_000
PATIENCE_S = 0.1
ERRORS_BEFORE_PAUSE = 5
LONGEST_PAUSE_S = 1.0
STALE_IMAGES_AT_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One image from a camera.

    image: (H, W, 3) RGB, uint8, or uint16 where the camera has more bits; the receiver owns it and the camera never
    writes to it again. captured_ns: monotonic
    clock when the exposure ended, as well as the driver knows. source: file name or video position. label: the truth
    where the source knows it ("good", or a defect type), else empty.
    """

    image: DeepImage
    captured_ns: int
    exposure_us: float | None = None
    source: str = ""
    label: str = ""


class Camera(Protocol):
    """A source of images, open once constructed. Used by one thread at a time."""

    def grab(self, timeout_s: float) -> Shot:
        """Block for the next image. Raises CameraTimeout, EndOfFootage, CameraLost, CameraError for one bad image."""

    def close(self) -> None:
        """Release the device; a second call does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquisitionPlan:
    """How parts are taken: how long the camera may take, and how many parts where each image is one (None: no end)."""

    frame_timeout_ms: float
    max_parts: int | None = None


class Acquisition:
    """Asks the camera for each registered part, and hands the frame on without copying. One thread.

    triggers: the queue of registered parts; None where each image that arrives is a part, which `register` then takes
    in. room: taken for each part and given back with its verdict, where footage must not be read faster than it is
    judged; None where the line sets the pace. gate, frames: sockets.
    """

    def __init__(
        self,
        plan: AcquisitionPlan,
        *,
        camera: Camera,
        triggers: Socket | None,
        register: Register,
        gate: Socket,
        frames: Socket,
        room: Semaphore | None,
        meters: Meters,
    ) -> None:
        self._plan = plan
        self._camera = camera
        self._triggers = triggers
        self._register = register
        self._gate, self._frames = gate, frames
        self._room = room
        self._meters = meters
        self._errors = 0

    def run(self, stop: Event) -> None:
        """Take parts until `stop` is set and none waits, the footage ends or the planned number is reached."""
        while not self._is_over(stop):
            self._meters.beat(Stage.ACQUIRE)
            if self._room is not None and not self._room.acquire(timeout=PATIENCE_S):
                continue
            before = self._register.parts
            triggers = self._triggers
            goes_on = self._take_on_arrival(stop) if triggers is None else self._take_on_trigger(triggers, stop)
            if self._room is not None and self._register.parts == before:
                self._room.release()
            if not goes_on:
                return

    def _is_over(self, stop: Event) -> bool:
        if self._triggers is not None:
            return stop.is_set() and not self._triggers.poll(0)
        return stop.is_set() or self._register.parts == self._plan.max_parts

    def _take_on_trigger(self, triggers: Socket, stop: Event) -> bool:
        """Wait for a registered part, then ask the camera; False at the end of the footage."""
        trigger = receive(triggers) if triggers.poll(round(PATIENCE_S * 1000)) else None
        if not isinstance(trigger, Trigger) or time.monotonic_ns() >= trigger.deadline_ns:
            return True  # the camera was busy with the parts before for so long that the gate has answered
        try:
            self._hand_over(trigger, self._fresh_shot(trigger))
        except EndOfFootage as end:
            self._fault(trigger, Reason.NO_FRAME, str(end))
            return False
        except _Stale:
            self._fault(trigger, Reason.STALE_FRAME, "the camera gave only images that are older than the trigger")
        except CameraTimeout as error:
            self._fault(trigger, Reason.NO_FRAME, str(error))
        except CameraError as error:
            self._camera_error(trigger, error, stop)
        return True

    def _take_on_arrival(self, stop: Event) -> bool:
        """Wait for an image: the part came when it was taken. False at the end of the footage."""
        try:
            shot = self._camera.grab(min(self._plan.frame_timeout_ms / 1e3, PATIENCE_S))
        except EndOfFootage:
            return False
        except CameraTimeout:
            return True
        except CameraError as error:
            self._camera_error(self._register.enter(Ask(time.monotonic_ns())), error, stop)
            return True
        self._hand_over(self._register.enter(Ask(shot.captured_ns)), shot)
        return True

    def _fresh_shot(self, trigger: Trigger) -> Shot:
        """The first image taken after the trigger; older ones, from a camera's own buffer, are thrown away."""
        give_up_ns = time.monotonic_ns() + round(self._plan.frame_timeout_ms * NS_PER_MS)
        for _ in range(STALE_IMAGES_AT_MOST):  # a driver that hands out old images at once must not keep us spinning
            left_ns = give_up_ns - time.monotonic_ns()
            if left_ns <= 0:
                break
            shot = self._camera.grab(left_ns / 1e9)
            if shot.captured_ns >= trigger.trigger_ns:
                return shot
            self._meters.count(Count.STALE_IMAGES)
        raise _Stale

    def _hand_over(self, trigger: Trigger, shot: Shot) -> None:
        self._errors = 0
        frame = Frame(
            seq=trigger.seq,
            part_id=trigger.part_id,
            trigger_ns=trigger.trigger_ns,
            captured_ns=shot.captured_ns,
            deadline_ns=trigger.deadline_ns,
            image=shot.image,
            exposure_us=shot.exposure_us,
            source=shot.source,
            label=shot.label,
        )
        if not send(self._frames, frame):
            self._meters.count(Count.OVERLOAD)
            self._fault(trigger, Reason.OVERLOAD, "the queue to the engine was full", shot)

    def _camera_error(self, trigger: Trigger, error: CameraError, stop: Event) -> None:
        """The part is INVALID; a camera that fails again and again is asked less often."""
        self._meters.count(Count.CAMERA_FAULTS)
        self._errors += 1
        reason = {CameraLost: Reason.CAMERA_LOST, ImageRepeated: Reason.REPEATED_IMAGE}.get(type(error))
        self._fault(trigger, reason or Reason.BAD_IMAGE, str(error))
        if self._errors > ERRORS_BEFORE_PAUSE and self._triggers is None:
            stop.wait(min(LONGEST_PAUSE_S, 0.01 * 2.0 ** min(self._errors - ERRORS_BEFORE_PAUSE, 10)))

    def _fault(self, trigger: Trigger, reason: Reason, detail: str, shot: Shot | None = None) -> None:
        """Tell the gate; where even that queue is full, the gate answers at the deadline."""
        fault = Fault(seq=trigger.seq, part_id=trigger.part_id, reason=reason, detail=detail[:1000])
        if shot is not None:
            fault = Fault(
                seq=trigger.seq,
                part_id=trigger.part_id,
                reason=reason,
                detail=detail,
                captured_ns=shot.captured_ns,
                label=shot.label,
                source=shot.source,
                image=shot.image,
            )
        send(self._gate, fault)


class _Stale(Exception):
    """Only images from before the trigger came in time."""
