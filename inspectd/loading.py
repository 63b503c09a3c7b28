"""From a station's settings to an engine that may judge: bundle verified, engine loaded, golden images reproduced."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines import golden
from engines.artifact import Bundle, active_bundle, check_settings, open_bundle, resolve_bundle
from engines.runtimes import infer, load_runtime
from inspectd.config import Station
from inspectd.messages import Thresholds
from inspectd.pipeline import Engine

WARM_UP_PARTS = 5


def find_bundle(station: Station, path: Path | None) -> Bundle:
    """Open and verify the bundle at `path`, or the station's active one. Raises BundleError."""
    folder = active_bundle(station.bundles, station.station) if path is None else resolve_bundle(path)
    bundle = open_bundle(folder)
    check_settings(bundle, station.canvas, station.regions, station.model, station.locate.model_dump(mode="json"))
    return bundle


def load_engine(station: Station, bundle: Bundle) -> Engine:
    """Load the bundle's engine, warm it up and reproduce the golden images; blocks for some seconds.

    Raises EngineUnavailable, ParityError, EngineFault, BundleError.
    """
    runtime = load_runtime(bundle, station.engine)
    try:
        black = np.zeros((station.canvas.height_px, station.canvas.width_px, 3), np.uint8)
        for _ in range(WARM_UP_PARTS):
            infer(runtime, black)
        golden.verify(bundle, runtime)
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
    )
