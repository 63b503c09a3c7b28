"""Where training runs: what there is, what is said where it is not, and that nothing stays behind on the way to a GPU.

There is no GPU here: torch's fake tensors stand in for one. They hold no numbers, and know on which device each result
lies; an operation on tensors of two devices fails as it would on a card. `tests/gpu` trains on a real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from calibration.device import CPU, device_name, training_device, training_on
from calibration.discriminate import discriminator_stage
from calibration.errors import TrainingDeviceError
from calibration.families import rd_feature_mask, student_stage
from calibration.families.dtkd import decoder_stage
from calibration.targets import Targets, standards
from engines.networks.dtkd import DtkdNetwork
from engines.networks.families import new_network
from engines.preprocess import to_planes
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings
from engines.teachers import random_teacher

CANVAS = CanvasSettings(height_px=64, width_px=64)
REGIONS = [RegionSettings(name="all", top_px=8, left_px=8, height_px=48, width_px=48, patches=((2, 2), (1, 1)))]
TINY = TrainingSettings(steps=2, decoder_steps=2, discriminator_steps=2, batch=4)
CARD = torch.device("cuda", 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
CHOSEN = torch.tensor([0, 3, 5])
MODELS: dict[str, dict[str, Any]] = {
    "dtkd": {},
    "dtkd, cosine": {"distance": "cosine", "score": "paper"},
    "autoencoder": {"distillation": False, "features": False, "score": "paper"},
    "stpm": {"family": "stpm", "teachers": ["resnet18"]},
    "rd_two_teachers": {"family": "rd_two_teachers"},
    "rd_feature_mask": {"family": "rd_feature_mask"},
}
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")


def network_of(model: ModelSettings) -> Any:
    """Of random weights."""
    teachers = [random_teacher(name, model.teacher_levels, 1) for name in model.teachers]
    return new_network(model, CANVAS, REGIONS, teachers)


def bring_to_card(network: nn.Module, mode: FakeTensorMode) -> None:
    """What `network.to("cuda")` does, with fake tensors."""
    with mode:
        for module in network.modules():
            for name, value in module.named_parameters(recurse=False):
                brought = nn.Parameter(mode.from_tensor(value.detach()).to(CARD), requires_grad=value.requires_grad)
                module.register_parameter(name, brought)
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, mode.from_tensor(buffer).to(CARD))


@needs_no_gpu
@pytest.mark.filterwarnings("ignore:CUDA is not available")  # autocast is no part of what is looked at
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_what_a_loss_touches_lies_where_the_network_does(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics, features, losses and validation of each family with the network on a card, the images beside it."""
    monkeypatch.setattr(rd_feature_mask, "int", lambda value: 0, raising=False)  # the steps so far: a fake has none
    model = ModelSettings.model_validate(changes)
    network, mode = network_of(model), FakeTensorMode(allow_non_fake_inputs=True)
    bring_to_card(network, mode)
    planes, parts = to_planes(torch.from_numpy(IMAGES)), torch.arange(6)
    with mode, torch.no_grad():
        targets = Targets(network, planes, parts)
        means, deviations = standards(network, targets)
        network.standardise(means, deviations)
        assert all(level.device == CARD for level in targets(CHOSEN))
    with mode if model.family == "dtkd" else nullcontext():
        stages = [student_stage(network, targets, TINY, 0)]
        if isinstance(network, DtkdNetwork) and network.decoder is not None and model.distillation:
            stages.append(decoder_stage(network, network.decoder, targets, TINY, 0))
    with mode:
        for stage in stages:
            assert stage.loss(CHOSEN).device == CARD
            assert stage.validation is None or stage.validation.loss(CHOSEN).device == CARD
    assert all(mean.device == CPU for mean in means)


@needs_no_gpu
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_defects_are_drawn_beside_the_card() -> None:
    """The discriminator's images are painted by the processor and follow it to the card."""
    discriminator, mode = network_of(ModelSettings()).discriminator, FakeTensorMode(allow_non_fake_inputs=True)
    stage = discriminator_stage(discriminator, to_planes(torch.from_numpy(IMAGES)), REGIONS, TINY, 0)
    bring_to_card(discriminator, mode)
    read = CHOSEN.numpy()  # indices are read, and a fake has none
    chosen = SimpleNamespace(tolist=read.tolist, numpy=lambda: read)
    with mode:
        assert stage.loss(cast("Tensor", chosen)).device == CARD


@needs_no_gpu
def test_a_fake_card_notices_what_was_left_behind() -> None:
    """The two tests above can fail."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    layer = nn.Conv2d(3, 4, 3)
    bring_to_card(layer, mode)
    with mode, pytest.raises(RuntimeError, match="device"):
        functional.mse_loss(layer(mode.from_tensor(torch.ones(1, 3, 8, 8))), torch.zeros(1, 4, 6, 6))


@needs_no_gpu
def test_a_card_that_is_too_small_is_one_line() -> None:
    """What to set instead is named, and torch's kernels are chosen as before."""
    full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nsee the documentation")

    def train() -> None:
        with training_on(CARD):
            assert torch.are_deterministic_algorithms_enabled()
            raise full

    with pytest.raises(TrainingDeviceError, match=r"memory does not suffice .*2 GiB.*calibration\.device: cpu$"):
        train()
    assert not torch.are_deterministic_algorithms_enabled()


@needs_no_gpu
def test_a_card_that_is_not_there_is_one_line() -> None:
    """`auto` takes the processor; `cuda` says what was not found and what to set."""
    assert training_device("auto") == training_device("cpu") == CPU
    assert device_name(CPU) == "processor"
    with pytest.raises(
        TrainingDeviceError, match=r"calibration\.device: cuda, but torch .* finds no CUDA GPU"
    ) as refusal:
        training_device("cuda")
    assert "\n" not in str(refusal.value)
    assert "calibration.device: auto" in str(refusal.value)


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_half_precision_only_where_the_processor_has_it(instructions: str) -> None:
    """An AVX2 processor trains in float32: it would emulate bfloat16, 8 to 12 times as slowly."""
    script = (
        "import torch; from calibration.device import CPU, half_precision\n"
        "with half_precision(CPU): print(torch.nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2)).dtype)\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    real = instructions != "AVX2" and torch.cpu._is_avx512_bf16_supported()
    assert shown == ("torch.bfloat16" if real else "torch.float32")
