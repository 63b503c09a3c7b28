"""Two bundles that judge alike, so that a soak run can swap one for the other while the daemon runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from engines.artifact import Bundle, BundleWriter, ManifestContent


def copy_bundle(bundle: Bundle, root: Path) -> Bundle:
    """Write a bundle again below `root`, with the same files and content; its hash is another, as its time is."""
    content = {name: getattr(bundle.manifest, name) for name in ManifestContent.model_fields}
    with BundleWriter(root, bundle.manifest.station) as writer:
        for name in bundle.manifest.files:
            target = writer.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), target)
        return writer.write(ManifestContent.model_validate(content))
