"""A whole station made as a user makes one, with next to no training: good enough to run, not to judge. Not a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import yaml
from line_values import settings

from engines.artifact import Bundle, BundleWriter, ManifestContent, Threshold, open_bundle, resolve_bundle
from inspectd.cameras.simulated import render_part

ROOT = Path(__file__).parents[1]
GOOD_PARTS = 40
STEPS = {"steps": 3, "decoder_steps": 3, "discriminator_steps": 3, "batch": 8}
NAME = "tiny"
DEADLINE_MS = 20_000
PERIOD_MS = 20
"""That a busy machine's engine meets, too, however the parts queue: what these tests ask is not how fast it is."""


@dataclass(frozen=True, slots=True)
class TinyStation:
    """The station's active bundle, below `bundles`; each test writes settings of its own around it."""

    bundles: Path

    @property
    def bundle(self) -> Bundle:
        """The active bundle."""
        return open_bundle(resolve_bundle(self.bundles))

    def settings(self, folder: Path, **changes: Any) -> Path:
        """Write `folder`/tiny.yaml: simulated camera, free ports, records in `folder`; changed section by section."""
        line = {"deadline_ms": DEADLINE_MS, **changes.get("line", {})}
        trigger = {"period_ms": PERIOD_MS, **changes.get("trigger", {})}
        raw = settings(folder, **{**changes, "line": line, "trigger": trigger})
        fixed = {
            "station": NAME,
            "canvas": {"height_px": 64, "width_px": 128},
            "regions": [_on_small_canvas(region) for region in raw["regions"]],
            "model": {"quick": STEPS},
            "engine": {"precision": "f32", "threads": 1, **changes.get("engine", {})},
            "bundles": changes.get("bundles", str(self.bundles)),
        }
        path = folder / f"{NAME}.yaml"
        path.write_text(yaml.safe_dump({**raw, **fixed}), encoding="utf-8")
        return path

    def with_limits(self, factor: float, root: Path) -> Bundle:
        """A bundle of its own below `root` with the same engine, and every limit multiplied by `factor`."""
        limits = self.bundle.thresholds

        def scaled(limit: Threshold) -> Threshold:
            return limit.model_copy(update={"value": limit.value * factor})

        regions = {name: scaled(limit) for name, limit in limits.regions.items()}
        return self.variant(
            root, thresholds=limits.model_copy(update={"part": scaled(limits.part), "regions": regions})
        )

    def variant(self, root: Path, **changes: Any) -> Bundle:
        """A bundle of its own below `root` with the same files, that states something else in its manifest."""
        made = self.bundle
        content = {name: getattr(made.manifest, name) for name in ManifestContent.model_fields}
        with BundleWriter(root, NAME) as writer:
            for name in made.manifest.files:
                target = writer.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made.path(name), target)
            return writer.write(ManifestContent.model_validate({**content, **changes}))


def _on_small_canvas(region: dict[str, Any]) -> dict[str, Any]:
    return {**region, "top_px": region["top_px"] - 32}


def make(folder: Path) -> TinyStation:
    """Render good parts and run `inspectd calibrate` on them; takes some ten seconds."""
    station = TinyStation(folder / "bundles")
    good = folder / "good"
    good.mkdir(parents=True)
    for index in range(GOOD_PARTS):
        cv2.imwrite(str(good / f"{index:03d}.png"), render_part(7, index).image[..., ::-1])
    done = inspectd("calibrate", "--station", str(station.settings(folder)), "--data", str(good), folder=folder)
    if done.returncode != 0:
        raise RuntimeError(f"the tiny station cannot be calibrated: {done.stderr}")
    return station


def inspectd(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run an inspectd command in `folder` to its end."""
    return _run([sys.executable, "-m", "inspectd", *arguments], folder)


def tool(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run tools/<name>.py in `folder` to its end."""
    return _run([sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments], folder)


def run_program(program: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own, in `folder`, to its end."""
    return _run([sys.executable, "-c", program], folder)


def environment() -> dict[str, str]:
    """That of a process which runs this checkout, from whatever folder; one thread, for networks as small as these."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=environment()
    )
