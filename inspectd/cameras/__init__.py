"""Cameras behind the `Camera` protocol of `inspectd.camera`; `open_camera` makes the one that the settings name."""

from __future__ import annotations

from inspectd.camera import Camera
from inspectd.camera_sections import CameraSettings, FolderCameraSettings, SimulatedCameraSettings, VideoCameraSettings
from inspectd.cameras.folder import FolderCamera
from inspectd.cameras.opencv import OpenCvCamera
from inspectd.cameras.simulated import SimulatedCamera
from inspectd.cameras.video import VideoCamera


def open_camera(settings: CameraSettings, *, every_image: bool = False) -> Camera:
    """Open the camera that the station names; blocks until it is ready. Raises CameraError with one line.

    every_image: each image that arrives is a part, so a live camera may pass none over.
    """
    if isinstance(settings, SimulatedCameraSettings):
        return SimulatedCamera(settings)
    if isinstance(settings, FolderCameraSettings):
        return FolderCamera(settings)
    if isinstance(settings, VideoCameraSettings):
        return VideoCamera(settings)
    return OpenCvCamera(settings, every_image=every_image)
