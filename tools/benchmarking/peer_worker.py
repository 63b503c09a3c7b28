"""One of anomalib's models on one labelled set, in the environment that peers.py made; one JSON line each step.

It is measured, or with --export written as ONNX. A line is a list [what, done, total] while it works, and one object,
the figures, at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.stfpm import torch_model as stfpm_module
from anomalib.models.image.stfpm.torch_model import STFPMModel
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torchvision.transforms.v2 import functional

from benchmarking.drawn import drawn
from calibration.dataset import GOOD, Sample, read_dataset
from calibration.evaluate import part_mask
from calibration.images import load_image

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 32
"""Of the training images; anomalib's own default."""
WARM_UP = 3
BACKBONE = "resnet18"
LEVELS = ["layer1", "layer2", "layer3"]
COUNTER = "num_batches_tracked"
"""What a batch norm counts while it learns; weights that are only used do without."""

Model = Any
"""PadimModel, PatchcoreModel or STFPMModel, which the project's own environment knows nothing of."""


def main() -> int:
    """Measure what the arguments ask for; returns 0. Raises ValueError for weights that do not fit."""
    args = _parser().parse_args()
    torch.set_num_threads(1)
    _settle_chance(args.seed)
    data = read_dataset(args.data)
    learnt = drawn(data.good, args.parts, args.seed)
    model = build(args.model)
    if args.weights is not None:
        load_backbone(model, args.weights)
    started_s = time.monotonic()
    fit(model, learnt, args.size, args.coreset)
    fit_s = time.monotonic() - started_s
    figures = measure(model, data.labelled, args.size) if args.export is None else export(model, args.size, args.export)
    versions = f"anomalib {version('anomalib')}, torch {version('torch')}, timm {version('timm')}"
    _tell({"learnt": len(learnt), "fit_s": round(fit_s, 2), **figures, "versions": versions})
    return 0


def _settle_chance(seed: int) -> None:
    """torch draws PaDiM's channels and PatchCore's first patch, NumPy the projection under which patches are chosen."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # anomalib asks the global generator through scikit-learn


def build(name: str) -> Model:
    """The model as anomalib's own defaults have it, on ResNet18, with no weights yet: nothing is fetched."""
    if name == "padim":
        return PadimModel(backbone=BACKBONE, layers=LEVELS, pre_trained=False)
    if name == "patchcore":
        return PatchcoreModel(backbone=BACKBONE, layers=LEVELS[1:], pre_trained=False)
    # Its teacher would fetch weights, and it has no argument that says otherwise.
    unfetched = partial(_without_weights, stfpm_module.TimmFeatureExtractor)
    with mock.patch.object(stfpm_module, "TimmFeatureExtractor", unfetched):
        return STFPMModel(backbone=BACKBONE, layers=LEVELS)


def _without_weights(kind: Any, **options: Any) -> Any:
    return kind(**{**options, "pre_trained": False})


def load_backbone(model: Model, weights: Path) -> None:
    """Put the file's weights into the backbone, every one of them. Raises ValueError where names or shapes differ."""
    extractor = model.teacher_model if isinstance(model, STFPMModel) else model.feature_extractor
    backbone = extractor.feature_extractor
    given = load_file(weights)
    needed = {name for name in backbone.state_dict() if not name.endswith(COUNTER)}
    if needed != given.keys():
        lacks, too_much = sorted(needed - given.keys()), sorted(given.keys() - needed)
        raise ValueError(f"{weights}: lacks {lacks}, has too much: {too_much}")
    try:
        backbone.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit {BACKBONE}: {error}") from error
    loaded = backbone.state_dict()
    unlike = [name for name, tensor in given.items() if not torch.equal(loaded[name], tensor)]
    if unlike:
        raise ValueError(f"{weights}: was not loaded into {unlike}")


def prepared(image: NDArray[np.uint8], size: int) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, size, size) as anomalib prepares it: squashed, antialiased, ImageNet's mean and spread."""
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255.0
    squashed = functional.resize(pixels, [size, size], antialias=True)
    normalised: torch.Tensor = functional.normalize(squashed, MEAN, DEVIATION)
    return normalised


def fit(model: Model, samples: Sequence[Sample], size: int, coreset: float) -> None:
    """Learn from good parts, as anomalib's Lightning modules do in one epoch; STFPM's student is left as it is drawn.

    A student's weights say nothing of its speed, and STFPM is exported to be timed.
    """
    if isinstance(model, STFPMModel):
        model.eval()
        return
    model.train()
    for first in range(0, len(samples), BATCH):
        batch = torch.stack([prepared(load_image(sample.path), size) for sample in samples[first : first + BATCH]])
        model(batch)
        _tell(["features", min(first + BATCH, len(samples)), len(samples)])
    _tell(["fitting", 0, 1])
    if isinstance(model, PadimModel):
        model.fit()
    else:
        model.subsample_embedding(coreset)
    model.eval()


class Engine(torch.nn.Module):
    """A model behind the ports of the product's engines, so that the same runtime runs both."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.mean = 255 * torch.tensor(MEAN).reshape(1, 3, 1, 1)
        self.deviation = 255 * torch.tensor(DEVIATION).reshape(1, 3, 1, 1)

    def forward(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(1, H, W, 3) uint8 RGB -> part score (1,), the same as region score (1, 1), anomaly map (1, H, W)."""
        found = self.model((part.permute(0, 3, 1, 2).float() - self.mean) / self.deviation)
        score = found.pred_score.reshape(1)
        return score, score.reshape(1, 1) * 1.0, found.anomaly_map.reshape(part.shape[:3])


def export(model: Model, size: int, target: Path) -> dict[str, Any]:
    """Write the fitted model as ONNX, with normalisation before it, and beside it an image (H, W, 3) uint8 as .npy.

    Returns `score`, what torch makes of that image, and what the speed depends on: `patches` in PatchCore's memory.
    """
    _tell(["exporting", 0, 1])
    probe = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    np.save(target.with_suffix(".npy"), probe)
    part, engine = torch.from_numpy(probe)[None], Engine(model).eval()
    names = ["part_score", "region_scores", "anomaly_map"]
    with torch.inference_mode():
        score = float(engine(part)[0])
        torch.onnx.export(engine, (part,), target, input_names=["part"], output_names=names, dynamo=False)
    return {"score": score, "patches": len(model.memory_bank) if isinstance(model, PatchcoreModel) else None}


def measure(model: Model, samples: Sequence[Sample], size: int) -> dict[str, Any]:
    """Image AUROC, pixel AUROC where masks are, and the median time of one part from the prepared image on."""
    scores, took_s = [], []
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    with_masks = any(sample.mask_path is not None for sample in samples)
    with torch.inference_mode():
        for done, sample in enumerate(samples, start=1):
            frame = load_image(sample.path)
            batch = prepared(frame, size)[None]
            for _ in range(WARM_UP if done == 1 else 0):
                model(batch)
            started_s = time.perf_counter()
            found = model(batch)
            took_s.append(time.perf_counter() - started_s)
            scores.append(float(found.pred_score))
            for mask in _masks(sample, frame, size) if with_masks else ():
                maps.append(found.anomaly_map.reshape(size, size).numpy().copy())
                masks.append(mask)
            _tell(["testing", done, len(samples)])
    defective = np.array([sample.label != GOOD for sample in samples])
    return {
        "good": int((~defective).sum()),
        "defective": int(defective.sum()),
        "image_auroc": _auroc(defective, np.array(scores)),
        "pixel_auroc": _auroc(np.array(masks).ravel(), np.array(maps).ravel()) if masks else None,
        "ms_per_image": round(1000 * statistics.median(took_s), 2),
    }


def _masks(sample: Sample, frame: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.bool_]]:
    """The defect on the squashed image; nothing for defects without a mask, or whose mask is empty."""
    height, width = frame.shape[:2]
    down, across = size / height, size / width
    matrix = np.array([[across, 0.0, (across - 1) / 2], [0.0, down, (down - 1) / 2]])
    mask = part_mask(sample, (height, width), matrix, (size, size))
    if sample.label == GOOD or mask.any():
        yield mask


def _auroc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float | None:
    if not truth.any() or truth.all():
        return None
    return round(float(roc_auc_score(truth, scores)), 4)


def _tell(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=("padim", "patchcore", "stfpm"), required=True)
    parser.add_argument("--weights", type=Path, help="without: as they are drawn")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--coreset", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--export", type=Path, metavar="FILE.onnx", help="write the model there, measure nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
