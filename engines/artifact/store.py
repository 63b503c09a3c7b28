"""A station's bundles: which there are, which one is active, and the way back. `active` is a symbolic link."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from engines.artifact.bundle import ACTIVE_NAME, HASH_DIGITS, HASH_NAME, open_bundle
from engines.artifact.manifest import MANIFEST_NAME, Manifest
from engines.artifact.writer import sync
from engines.errors import BundleError

HISTORY_NAME = "history.jsonl"


@dataclass(frozen=True, slots=True)
class BundleSummary:
    """One line of `inspectd bundles`; `fault` is empty where the manifest can be read."""

    folder: Path
    short_hash: str
    active: bool
    manifest: Manifest | None
    fault: str = ""


def active_bundle(root: Path, station: str) -> Path:
    """The folder of the station's active bundle. Raises BundleError where there is none."""
    link = Path(root) / station / ACTIVE_NAME
    with _permitted(link.parent):
        folder = Path(os.path.realpath(link))  # unlike Path.resolve, also where the link leads to itself
        is_bundle = folder.parent == link.parent.resolve() and (folder / MANIFEST_NAME).is_file()
    if not link.is_symlink():
        raise BundleError(f"{link.parent}: station {station} has no active bundle; run `inspectd calibrate`")
    if not is_bundle:
        raise BundleError(f"{link}: points to {folder.name}, which is no bundle here; run `inspectd rollback`")
    return folder


def activate(root: Path, station: str, bundle_hash: str) -> Path:
    """Make a bundle (by its hash, at least 16 digits) the station's active one, atomically; verifies it first.

    Raises BundleError. Returns the bundle's folder.
    """
    home = Path(root) / station
    short = bundle_hash[:HASH_DIGITS]
    _check_usable(home, station, short)
    with _locked(home):
        _point(home, short)
        _remember(home, "activate", short)
    return home / short


def rollback(root: Path, station: str) -> tuple[str, str]:
    """Go back to the bundle that was active before; again goes further back. Returns (from, to) as short hashes.

    Raises BundleError where there is no earlier one; verifies it first.
    """
    home = Path(root) / station
    with _permitted(home):
        is_active = (home / ACTIVE_NAME).is_symlink()
    if not is_active:
        raise BundleError(f"{home}: station {station} has no active bundle; run `inspectd calibrate`")
    with _permitted(home), _locked(home):
        current = (home / ACTIVE_NAME).readlink().name
        earlier = [short for short in _trail(home) if short != current and (home / short).is_dir()]
        if not earlier:
            raise BundleError(f"{home}: no bundle was active before {current}; nothing to go back to")
        _check_usable(home, station, earlier[-1])
        _point(home, earlier[-1])
        _remember(home, "rollback", earlier[-1])
    return current, earlier[-1]


def list_bundles(root: Path, station: str) -> list[BundleSummary]:
    """The station's bundles, oldest first, by their manifests alone (no hash is checked), broken ones with a fault.

    Raises BundleError where the folder may not be read.
    """
    home = Path(root) / station
    found = []
    with _permitted(home):
        if not home.is_dir():
            return []
        link = home / ACTIVE_NAME
        active = link.readlink().name if link.is_symlink() else ""
        for folder in home.iterdir():
            if HASH_NAME.fullmatch(folder.name) and folder.is_dir():
                found.append(_summary(folder, folder.name == active))
    return sorted(
        found, key=lambda summary: (summary.manifest.created.isoformat() if summary.manifest else "", summary.folder)
    )


def _summary(folder: Path, active: bool) -> BundleSummary:
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_NAME).read_bytes())
    except OSError as error:
        return BundleSummary(folder, folder.name, active, None, f"{MANIFEST_NAME}: {error.strerror}")
    except ValidationError:
        return BundleSummary(folder, folder.name, active, None, f"{MANIFEST_NAME} is broken or of another version")
    return BundleSummary(folder, folder.name, active, manifest)


def _check_usable(home: Path, station: str, short: str) -> None:
    if not HASH_NAME.fullmatch(short):
        raise BundleError(f"{short!r} is no bundle hash; `inspectd bundles` lists them")
    if not (home / short).is_dir():
        raise BundleError(f"{home}: holds no bundle {short}; `inspectd bundles` lists them")
    bundle = open_bundle(home / short)
    if bundle.station != station:
        raise BundleError(f"{home / short}: was made for station {bundle.station}, not {station}")


def _point(home: Path, short: str) -> None:
    """Replace the link by renaming a new one over it: a reader sees the old or the new bundle, never none."""
    fresh = home / f".{ACTIVE_NAME}-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(short)
        fresh.replace(home / ACTIVE_NAME)
        sync(home)
    except OSError as error:
        raise BundleError(f"{home / ACTIVE_NAME}: cannot be set: {error.strerror}") from error


def _remember(home: Path, action: str, short: str) -> None:
    line = json.dumps({"wall": datetime.now(UTC).isoformat(), "action": action, "bundle": short})
    with (home / HISTORY_NAME).open("a+", encoding="utf-8") as file:
        file.seek(0)
        before = file.read()
        # A line that a power cut tore must not take this one with it.
        file.write(("\n" if before and not before.endswith("\n") else "") + line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _trail(home: Path) -> list[str]:
    """The way back: what was activated, less what was rolled back. A torn last line (power cut) is left out."""
    path = home / HISTORY_NAME
    trail: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            action, short = str(entry["action"]), str(entry["bundle"])
        except (ValueError, KeyError, TypeError):
            continue
        if action == "rollback" and short in trail:
            while trail[-1] != short:
                trail.pop()
        else:
            trail.append(short)
    return trail


@contextmanager
def _permitted(home: Path) -> Iterator[None]:
    """Turn a refusal of the file system into one line."""
    try:
        yield
    except PermissionError as error:
        raise BundleError(f"{error.filename or home}: permission denied; check who owns the bundles") from error


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time moves a station's active bundle; blocks."""
    try:
        descriptor = os.open(home, os.O_RDONLY)
    except OSError as error:
        raise BundleError(f"{home}: cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
