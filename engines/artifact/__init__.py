"""The bundle: everything that calibration hands to the daemon, immutable and addressed by its hash."""

from engines.artifact.bundle import INSTANT, Bundle, check_settings, open_bundle, resolve_bundle
from engines.artifact.manifest import (
    DataFingerprint,
    EngineInfo,
    GoldenImage,
    Lambda,
    Manifest,
    ManifestContent,
    ParityRow,
    SettingsSnapshot,
    Statistic,
    TeacherInfo,
    Threshold,
    ThresholdSet,
    fingerprint,
    image_hash,
)
from engines.artifact.store import (
    BundleSummary,
    activate,
    active_bundle,
    list_bundles,
    rollback,
)
from engines.artifact.writer import BundleWriter

__all__ = [
    "INSTANT",
    "Bundle",
    "BundleSummary",
    "BundleWriter",
    "DataFingerprint",
    "EngineInfo",
    "GoldenImage",
    "Lambda",
    "Manifest",
    "ManifestContent",
    "ParityRow",
    "SettingsSnapshot",
    "Statistic",
    "TeacherInfo",
    "Threshold",
    "ThresholdSet",
    "activate",
    "active_bundle",
    "check_settings",
    "fingerprint",
    "image_hash",
    "list_bundles",
    "open_bundle",
    "resolve_bundle",
    "rollback",
]
