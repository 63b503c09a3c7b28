"""`inspectd run` with FakeRuntime in place of a bundle's engine, as a process of its own. Not a test module.

Arguments: station file, score of every part, most parts (0: no end), milliseconds that an inference takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fake_runtime import FakeRuntime
from line_values import BUNDLE_HASH, LIMITS, REGIONS

from inspectd.cameras import open_camera
from inspectd.commands.run import Signals, serve
from inspectd.config import load_station, notify_address
from inspectd.engine_guard import Engine
from inspectd.exits import run_program
from inspectd.health.systemd import Notifier
from inspectd.loading import Sources
from inspectd.logs import set_up_logging


def main(path: str, score: str, max_parts: str, engine_ms: str) -> int:
    """Serve; returns the exit code. Raises InspectdError."""
    set_up_logging()
    signals = Signals()
    runtime = FakeRuntime(score=lambda image: float(score), takes_s=float(engine_ms) / 1e3)
    engine = Engine(runtime=runtime, regions=REGIONS, thresholds=LIMITS, bundle_hash=BUNDLE_HASH)
    station = load_station(path)
    sources = Sources(camera=lambda: open_camera(station.camera), engine=lambda bundle: engine)
    with Notifier(notify_address()) as notifier:
        return serve(station, sources, notifier, signals, bundle=None, max_parts=int(max_parts) or None)


if __name__ == "__main__":
    sys.exit(run_program("inspectd", sys.argv[1:], lambda arguments: main(*arguments)))
