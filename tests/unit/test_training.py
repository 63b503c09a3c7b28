"""Training and fitting the score: reproducible, resumable, out of sample, and sensitive to a defect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from calibration import checkpoint as checkpoint_module
from calibration import train as train_module
from calibration.detection import Asked
from calibration.errors import TooFewParts
from calibration.fit_memory import in_units
from calibration.fit_scores import fit
from calibration.fitted import Fitted
from calibration.stages import batch_indices
from calibration.train import train
from engines.errors import BundleError
from engines.networks.dtkd import distance_map, min_max
from engines.networks.fused import FusedEngine, load_fused, save_fused
from engines.networks.memory_tail import Readings
from engines.scoring import ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings

CANVAS = CanvasSettings(height_px=64, width_px=64)
REGIONS = [
    RegionSettings(name="left", top_px=16, left_px=8, height_px=32, width_px=24, patches=((2, 2), (1, 1))),
    RegionSettings(name="right", top_px=16, left_px=32, height_px=32, width_px=24, patches=((2, 2), (1, 1))),
]
WHERE: Any = {"canvas": CANVAS, "regions": REGIONS}
ASKED = Asked.of(0.01, 0.95, REGIONS)
TINY = TrainingSettings(steps=4, decoder_steps=3, discriminator_steps=3, batch=4)


def parts(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bright noisy rectangles on black, (count, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 64, 64, 3))
    images[:, 16:48, 8:56] = 140 + rng.normal(0, 6, (count, 32, 48, 1))
    images[:, 16:48, 8:20] += 80
    return np.clip(images + rng.normal(0, 1, images.shape), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more threads, and lose much where another process wants the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two networks have equal weights, bit by bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fitted(model: ModelSettings, count: int = 12) -> Fitted:
    """A network and score fitted in a few steps."""
    options = {"held_out": 30, "asked": ASKED, "seed": 0, "work": None, "progress": nothing}
    return fit(parts(count), np.arange(count), model, CANVAS, REGIONS, TINY, **options)


def test_training_depends_on_the_seed_only() -> None:
    """The same seed gives the same weights bit by bit, another seed others."""
    model = ModelSettings()
    first = train(parts(6), model, TINY, **WHERE, seed=3, work=None, progress=nothing)
    again = train(parts(6), model, TINY, **WHERE, seed=3, work=None, progress=nothing)
    other = train(parts(6), model, TINY, **WHERE, seed=4, work=None, progress=nothing)
    assert same(first.network, again.network)
    assert not same(first.network, other.network)


TRAINING = """
import sys, pathlib
sys.path.insert(0, {tests!r})
import test_training as t
from calibration import checkpoint
checkpoint.SECONDS_BETWEEN = 0.0
import torch
torch.set_num_threads(1)
def progress(stage, done, total):
    print(stage, done, flush=True)
    sys.stdin.readline()
t.train(t.parts(6), t.ModelSettings(), t.TINY, **t.WHERE, seed=3, work=pathlib.Path({work!r}), progress=progress)
"""


@pytest.mark.parametrize("stage", ["student", "decoder", "discriminator"])
def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed outright in any stage, and started again, ends where an uninterrupted one ends."""
    code = TRAINING.format(tests=str(Path(__file__).parent), work=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == [stage, "2"]:
            process.send_signal(signal.SIGKILL)
            break
        process.stdin.write("\n")
        process.stdin.flush()
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    monkeypatch.setattr(checkpoint_module, "SECONDS_BETWEEN", 0.0)
    steps: list[tuple[str, int]] = []
    resumed = train(
        parts(6), ModelSettings(), TINY, **WHERE, seed=3, work=tmp_path, progress=lambda s, d, _: steps.append((s, d))
    )
    whole = train(parts(6), ModelSettings(), TINY, **WHERE, seed=3, work=None, progress=nothing)
    assert steps[0] == (stage, 2)  # step 2 had been taken, its checkpoint not yet written
    assert same(resumed.network, whole.network)
    assert all(np.array_equal(resumed.losses[name], losses) for name, losses in whole.losses.items())


def test_a_checkpoint_of_another_run_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other images or another version start over, a finished run does not; a damaged file counts as none."""
    steps: list[int] = []
    options = {**WHERE, "seed": 0, "work": tmp_path, "progress": lambda _s, done, _t: steps.append(done)}
    first = train(parts(6), ModelSettings(), TINY, **options)
    count = len(steps)
    again = train(parts(6), ModelSettings(), TINY, **options)
    assert len(steps) == count
    assert same(first.network, again.network)
    train(parts(6, seed=1), ModelSettings(), TINY, **options)
    assert len(steps) == 2 * count
    (tmp_path / checkpoint_module.FILE).write_bytes(os.urandom(200))
    train(parts(6), ModelSettings(), TINY, **options)
    assert len(steps) == 3 * count
    monkeypatch.setattr(train_module, "version", lambda name: f"another {name}")
    train(parts(6), ModelSettings(), TINY, **options)
    assert len(steps) == 4 * count


def test_batches_go_through_all_images_each_epoch() -> None:
    """Consecutive batches are consecutive pieces of one permutation per epoch."""
    drawn = torch.cat([batch_indices(10, 5, seed=1, step=step) for step in range(4)])
    assert sorted(drawn[:10].tolist()) == list(range(10))
    assert sorted(drawn[10:].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_distances_are_the_papers() -> None:
    """Eq. 1 is the mean square over channels, Eq. 2 one minus the cosine; teachers take their share of the channels."""
    target, imitation = torch.zeros(1, 5, 2, 2), torch.zeros(1, 5, 2, 2)
    target[:, :2] = 2.0
    imitation[:, 2:] = 1.0
    assert distance_map([target], [imitation], [2], "mse", 0).unique().tolist() == [4.0]
    assert distance_map([target], [imitation], [2], "mse", 1).unique().tolist() == [1.0]
    imitation[:, 0], imitation[:, 1] = 1.0, 0.0
    cosine = distance_map([target], [imitation], [2], "cosine", 0)
    torch.testing.assert_close(cosine, torch.full((1, 2, 2), 1 - 2**-0.5))
    mask = min_max(torch.tensor([[[-3.0, 1.0], [5.0, 1.0]]]))
    torch.testing.assert_close(mask, torch.tensor([[[0.0, 0.5], [1.0, 0.5]]]))


@pytest.mark.parametrize(
    "model",
    [
        ModelSettings(),
        ModelSettings(score="paper"),
        ModelSettings(attention=False, memory_patches=100),
        ModelSettings(teachers=("efficientnet_lite0",), score="paper", distance="cosine", decoder=False),
    ],
    ids=["calibrated", "paper", "no-decoder", "one-teacher"],
)
def test_a_saved_engine_answers_alike(model: ModelSettings, tmp_path: Path) -> None:
    """What is written and read again gives the same answers bit by bit, without any teacher's weights beside it."""
    result = fitted(model)
    engine = FusedEngine(result.network, model, CANVAS, REGIONS, result.constants)
    path = tmp_path / "network.safetensors"
    save_fused(engine, path)
    image = torch.from_numpy(parts(1, seed=9))
    with torch.inference_mode():
        expected, got = engine(image), load_fused(path)(image)
    assert [value.shape[1:] for value in got[:3]] == [(), (2,), (16, 16)]
    assert len(got) == (4 if model.decoder else 3)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    save_file(load_file(path), path, metadata={"format": "inspectd-fused/1"})
    with pytest.raises(BundleError, match=r"format 'inspectd-fused/1', this version reads .*; calibrate again"):
        load_fused(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match="cannot be read as a trained network"):
        load_fused(path)


def test_a_defect_raises_the_score_of_its_region() -> None:
    """After fitting, a dark blot raises its region above all held-out good parts; held-out scores are centred."""
    model = ModelSettings()
    result = fitted(model, count=24)
    assert sorted(result.held_out.tolist()) == list(range(24))
    assert np.isfinite(result.region_scores).all()
    engine = FusedEngine(result.network, model, CANVAS, REGIONS, result.constants)
    bad = parts(1, seed=9)
    bad[:, 26:38, 38:50] = 40
    with torch.inference_mode():
        part_score, regions, anomaly_map = engine(torch.from_numpy(bad))[:3]
    assert float(part_score) > result.part_scores.max()
    assert float(regions[0, 1]) == float(part_score)
    row, column = np.unravel_index(int(anomaly_map[0].argmax()), (16, 16))
    assert 6 <= row <= 10
    assert 8 <= column <= 13


def test_frames_of_one_part_stay_together() -> None:
    """With enough parts for a plain split, no part has images on both sides of it; each counts once in the limits."""
    groups = np.repeat(np.arange(100), 2)
    options = {"held_out": 30, "asked": ASKED, "seed": 0, "work": None, "progress": nothing}
    model = ModelSettings(decoder=False, attention=False)
    tiny = TrainingSettings(steps=1, decoder_steps=0, discriminator_steps=1, batch=2)
    result = fit(parts(200), groups, model, CANVAS, REGIONS, tiny, **options)
    assert len(result.held_out) == len(result.part_scores) == len(result.region_scores) == 30
    assert len(np.unique(groups[result.held_out])) == 30
    assert (result.held_out % 2 == 0).all()  # the first image of each


def test_a_memory_stands_beside_the_student() -> None:
    """A region's score is the higher of the two, each in its units, and Patch_GMSD on top: in the engine as in the
    scores that limits are chosen on."""
    model = ModelSettings(memory_patches=100)
    result = fitted(model, count=24)
    constants, features = result.constants, result.feature_scores
    assert constants.memory is not None
    assert constants.student is not None
    assert features is not None
    assert result.maps is not None
    cells = (result.maps.shape[1], result.maps.shape[2])
    read = Readings(CANVAS, REGIONS, constants.memory.readings, cells)
    with torch.no_grad():
        raw = read(torch.from_numpy(result.maps).unsqueeze(1)).double().numpy()
    remembered, imitated = in_units(raw, constants.memory.units), in_units(features[:, None, :], constants.student)
    assert (remembered > imitated).any()
    assert (remembered < imitated).any()
    engine = FusedEngine(result.network, model, CANVAS, REGIONS, constants)
    alone = replace(constants, memory=None)
    student = FusedEngine(result.network, model, CANVAS, REGIONS, alone)
    new = torch.from_numpy(parts(1, seed=9))
    with torch.inference_mode():
        outputs = result.network(new)
        regions, without = engine(new)[1].numpy(), student(new)[1].numpy()
        by_student = student.tail.features(outputs)[0].numpy()
    assert outputs.unknown is not None
    with torch.no_grad():
        by_memory = in_units(read(outputs.unknown).double().numpy(), constants.memory.units)
    expected = np.maximum(by_memory, by_student) + (without - by_student)
    np.testing.assert_allclose(regions, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("held_out", [0, 100])
def test_all_or_no_parts_cannot_be_held_out(held_out: int) -> None:
    """Neither leaves anything to learn from, or to choose limits on."""
    options = {
        "held_out": held_out,
        "asked": ASKED,
        "seed": 0,
        "work": None,
        "progress": nothing,
    }
    with pytest.raises(ValueError, match=f"{held_out} of 100 parts cannot be held out"):
        fit(parts(100), np.arange(100), ModelSettings(), CANVAS, REGIONS, TINY, **options)


def test_too_few_parts_are_refused() -> None:
    """Fewer parts than the score needs is one clear line; a calibrated engine without constants is refused as well."""
    with pytest.raises(TooFewParts, match="5 good parts: the score needs at least"):
        fitted(ModelSettings(), count=5)
    network = train(parts(4), ModelSettings(), TINY, **WHERE, seed=0, work=None, progress=nothing).network
    with pytest.raises(ValueError, match="calibrated needs constants"):
        FusedEngine(network, ModelSettings(), CANVAS, REGIONS, ScoringConstants((1.0, 1.0)))
