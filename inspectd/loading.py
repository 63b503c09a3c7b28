"""From a station's settings to its camera, how it locates parts, and an engine that may judge: verified, loaded,
golden images reproduced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines import golden
from engines.alignment import TEMPLATE_NAME, PartTemplate, load_template
from engines.artifact import Bundle, active_bundle, check_settings, open_bundle, resolve_bundle
from engines.runtimes import infer, load_chosen
from inspectd.camera import Camera
from inspectd.cameras import open_camera
from inspectd.config import Station
from inspectd.engine_guard import Engine, LocatePart
from inspectd.inspect import PartFault
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import DeepImage, Image, Pose, Thresholds

WARM_UP_PARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the daemon's images and its engine come from.

    camera: opens it; called in the thread that uses it. engine: loads the bundle in a folder, None: the active one.
    """

    camera: Callable[[], Camera]
    engine: Callable[[Path | None], Engine]


def station_sources(station: Station) -> Sources:
    """The camera and the bundles that the station's settings name; nothing is opened yet."""
    return Sources(
        camera=lambda: open_camera(station.camera, every_image=station.trigger.source == "camera"),
        engine=lambda path: load_engine(station, find_bundle(station, path)),
    )


def locate_part(locator: Locator) -> LocatePart:
    """A locator as the inspect stage takes it."""

    def locate(image: DeepImage, out: Image) -> Pose:
        try:
            return locator.locate(image, out).pose
        except LocateFault as fault:
            raise PartFault(fault.reason, fault.detail) from fault

    return locate


def part_template(bundle: Bundle) -> PartTemplate | None:
    """The template that a bundle carries with locate.mode part, None with another mode. Raises BundleError."""
    if bundle.manifest.settings.locate.get("mode") != "part":
        return None
    return load_template(bundle.path(TEMPLATE_NAME))


def find_bundle(station: Station, path: Path | None) -> Bundle:
    """Open and verify the bundle at `path`, or the station's active one. Raises BundleError."""
    folder = active_bundle(station.bundles, station.station) if path is None else resolve_bundle(path)
    bundle = open_bundle(folder)
    locate = station.locate.model_dump(mode="json")
    check_settings(bundle, station.canvas, station.regions, station.model, locate, levels=station.levels)
    return bundle


def load_engine(station: Station, bundle: Bundle) -> Engine:
    """Load the bundle's engine, warm it up and reproduce the golden images; blocks for some seconds.

    Raises EngineUnavailable, ParityError, EngineFault, BundleError.
    """
    chosen = load_chosen(bundle, station.engine)
    runtime = chosen.runtime
    try:
        black = np.zeros((station.canvas.height_px, station.canvas.width_px, 3), np.uint8)
        for _ in range(WARM_UP_PARTS):
            infer(runtime, black)
        golden.verify(bundle, runtime)
        template = part_template(bundle)
        levels = bundle.manifest.settings.levels
        of_bundle = template is not None or levels is not None
        locator = Locator(station.locate, station.canvas, template, levels) if of_bundle else None
    except BaseException:
        runtime.close()
        raise
    limits = bundle.thresholds
    names = tuple(region.name for region in bundle.regions)
    return Engine(
        runtime=runtime,
        regions=names,
        thresholds=Thresholds(
            part=limits.part.value, regions=tuple((name, limits.regions[name].value) for name in names)
        ),
        bundle_hash=bundle.hash,
        folder=bundle.folder,
        why=chosen.why,
        locate=None if locator is None else locate_part(locator),
        reference={name: statistic.values for name, statistic in bundle.manifest.reference.items()},
    )
