"""DINOv2 as the memory's teacher: its features, a grid that does not divide the canvas, its weights, its engine."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from calibration.detection import Asked
from calibration.fit_memory import fit_memory, units_of
from calibration.remember import fill_memory
from engines import dinov2, teachers
from engines.compilation.parity import own_quantile
from engines.compile import compile_engine
from engines.errors import WeightsError
from engines.networks.families import new_network
from engines.networks.fused import FusedEngine, load_fused, save_fused
from engines.networks.memory import LENGTH, DirectionMemory
from engines.runtimes import infer
from engines.runtimes.openvino import OpenVinoRuntime
from engines.scoring import READINGS, MemoryConstants, ScoringConstants, region_masks
from engines.settings import CanvasSettings, EngineSettings, ModelSettings, RegionSettings
from engines.teachers import bare_teacher, load_teacher, load_teachers, memory_grid, random_teacher

SHARED = Path(__file__).parents[2].parent / "shared" / "weights"
CANVAS = CanvasSettings(height_px=64, width_px=96)
GRID = (4, 6)
REGIONS = (
    RegionSettings(name="left", top_px=8, left_px=8, height_px=48, width_px=40),
    RegionSettings(name="right", top_px=8, left_px=48, height_px=45, width_px=40),
)
MODEL = ModelSettings.model_validate(
    {"score": "memory", "teachers": ["dinov2_small"], "random_teachers": True, "memory_patches": 60}
)


def images(count: int, seed: int = 7) -> NDArray[np.uint8]:
    """One blocky pattern, (count, 64, 96, 3), its blocks a little lighter or darker from part to part."""
    pattern = np.random.default_rng(99).integers(60, 200, (1, 8, 12, 3))
    coarse = pattern + np.random.default_rng(seed).normal(0, 8, (count, 8, 12, 3))
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).clip(0, 255).astype(np.uint8)


def whole_network(side: int) -> nn.Module:
    """The network as it is published, with random weights, its positions those of a square of patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return dinov2.untrained_network((side, side)).eval()


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Weights of a whole network of 5 x 5 positions, with the token that Meta's file has beside timm's."""
    return {**whole_network(5).state_dict(), "mask_token": torch.zeros(1, 384)}


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "calibrated"},
        {"score": "paper"},
        {"family": "stpm", "score": "calibrated"},
        {"score": "memory", "teachers": ["dinov2_small", "efficientnet_lite0"]},
        {"score": "memory", "teachers": ["efficientnet_lite0", "dinov2_small"]},
    ],
)
def test_it_is_refused_where_a_student_or_another_grid_would_need_its_levels(changes: dict[str, object]) -> None:
    """One sentence says what to set instead."""
    with pytest.raises(ValidationError, match=r"dinov2_small.* needs score: memory and no teacher beside it"):
        ModelSettings.model_validate({"teachers": ["dinov2_small"], **changes})


def test_features_are_the_mean_of_blocks_three_to_ten() -> None:
    """As timm itself gives them out, for a canvas whose sides are multiples of 14, without the class token."""
    network = whole_network(4)
    embedding, encoder = dinov2.cut(network, (4, 4))
    planes = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        blocks = network.forward_intermediates(planes, indices=list(range(2, 10)), intermediates_only=True)  # type: ignore[operator]
        found = encoder(embedding(planes))
        last = network.forward_intermediates(planes, indices=[11], intermediates_only=True)[0]  # type: ignore[operator]
    assert len(blocks) == 8
    torch.testing.assert_close(found, torch.stack(blocks).mean(dim=0), rtol=1e-4, atol=1e-4)
    assert float((found - last).abs().max()) > 0.1


def test_the_canvas_is_seen_at_multiples_of_fourteen() -> None:
    """A canvas of 64x96 is seen as 56x84 pixels, 4x6 patches; one built for another grid refuses it."""
    teacher = random_teacher("dinov2_small", 3, 0, CANVAS)
    planes = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    small = functional.interpolate(planes, size=(56, 84), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        tokens, grid = teacher(planes)
        assert torch.equal(grid, teacher(small)[1])
    assert memory_grid("dinov2_small", CANVAS) == GRID
    assert memory_grid("dinov2_small", CanvasSettings(height_px=256, width_px=256)) == (18, 18)
    assert tokens.shape == (1, 25, 384)
    assert grid.shape == (1, 384, *GRID)
    with pytest.raises(ValueError, match="built for one canvas"):
        bare_teacher("dinov2_small", 3)


def test_positions_are_brought_to_the_grid_once(published: dict[str, Tensor]) -> None:
    """Bicubically; the class token's stays, a grid of the published size changes nothing, unused weights go."""
    same, other = dinov2.for_grid(published, (5, 5)), dinov2.for_grid(published, GRID)
    assert torch.equal(same["pos_embed"], published["pos_embed"])
    square = published["pos_embed"][0, 1:].reshape(5, 5, 384).permute(2, 0, 1)[None]
    expected = functional.interpolate(square, size=GRID, mode="bicubic", align_corners=False)
    torch.testing.assert_close(other["pos_embed"][0, 1:].T.reshape(384, *GRID), expected[0])
    assert torch.equal(other["pos_embed"][0, 0], published["pos_embed"][0, 0])
    assert not {"mask_token", "norm.weight", "blocks.10.mlp.fc1.weight"} & set(other)
    with pytest.raises(ValueError, match="not of a square"):
        dinov2.for_grid({"pos_embed": torch.zeros(1, 8, 384)}, GRID)


def known(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make this file the known one of its name; its sha256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(teachers, "DINOV2_FILES", ((path.name, digest, ""),))
    return digest


@pytest.mark.parametrize("name", ["dinov2_vits14_pretrain.pth", "vit_small_patch14_dinov2.lvd142m.safetensors"])
def test_a_known_file_is_read_in_either_format(
    name: str, published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features are those of timm's network, brought to the same grid by timm's own rule; its hash is recorded."""
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(published, path)
    else:
        save_file(published, path)
    digest = known(path, monkeypatch)
    canvas = CanvasSettings(height_px=96, width_px=96)
    teacher = load_teacher("dinov2_small", 3, tmp_path, canvas)
    assert teacher.weights is not None
    assert (teacher.weights.name, teacher.weights.sha256, teacher.weights.licence) == (name, digest, "Apache-2.0")
    timms = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=84, init_values=1.0).eval()
    whole = {key: value for key, value in published.items() if key != "mask_token"}
    positions = dinov2.for_grid(published, (6, 6))["pos_embed"]
    timms.load_state_dict({**whole, "pos_embed": positions})
    planes = torch.randn(1, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        blocks = timms.forward_intermediates(planes, indices=list(range(2, 10)), intermediates_only=True)
        torch.testing.assert_close(teacher(planes)[1], torch.stack(blocks).mean(dim=0), rtol=1e-4, atol=1e-4)


def test_what_is_not_the_known_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None there, another content under the name, and a known file that lacks a block: one line each."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=r"none of dinov2_vits14_pretrain\.pth, .* is in model\.weights_folder"):
        load_teacher("dinov2_small", 3, tmp_path, CANVAS)
    path = tmp_path / "dinov2-small.safetensors"
    save_file({"pos_embed": torch.zeros(1, 26, 384)}, path)
    with pytest.raises(WeightsError, match=r"is not the known one .*; see docs/weights\.md"):
        load_teacher("dinov2_small", 3, tmp_path, CANVAS)
    known(path, monkeypatch)
    with pytest.raises(WeightsError, match="does not fit dinov2_small up to level 3: cls_token is absent"):
        load_teacher("dinov2_small", 3, tmp_path, CANVAS)


@pytest.mark.parametrize(("height_px", "width_px", "cells"), [(256, 128, (18, 9)), (64, 96, (4, 6)), (64, 96, (8, 12))])
def test_a_region_has_every_cell_that_it_has_pixels_in(height_px: int, width_px: int, cells: tuple[int, int]) -> None:
    """Cells of fractions of a pixel: by exact arithmetic, pixel interval against cell interval."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        top, left = int(rng.integers(0, height_px - 3)), int(rng.integers(0, width_px - 3))
        height, width = int(rng.integers(3, height_px - top + 1)), int(rng.integers(3, width_px - left + 1))
        region = RegionSettings(name="one", top_px=top, left_px=left, height_px=height, width_px=width)
        (mask,) = region_masks(height_px, width_px, (region,), cells)
        down = [_overlap(k, Fraction(height_px, cells[0]), top, top + height) for k in range(cells[0])]
        across = [_overlap(k, Fraction(width_px, cells[1]), left, left + width) for k in range(cells[1])]
        np.testing.assert_array_equal(mask, np.outer(down, across))


def _overlap(cell: int, size: Fraction, start: int, stop: int) -> bool:
    return cell * size < stop and (cell + 1) * size > start


def test_a_distance_says_the_angle_alone() -> None:
    """The nearest direction by brute force, and how long the features are makes no difference."""
    rng = torch.Generator().manual_seed(0)
    level, kept = torch.randn(2, 8, 3, 5, generator=rng), torch.randn(40, 8, generator=rng)
    memory = DirectionMemory(8)
    memory.patches = memory.components([kept.T.reshape(1, 8, 40, 1)])[0, :, :, 0].T.contiguous()
    cosines = functional.normalize(level.flatten(2).transpose(1, 2), dim=2) @ functional.normalize(kept, dim=1).T
    expected = LENGTH * (2 - 2 * cosines.amax(dim=2)).sqrt()
    torch.testing.assert_close(memory([level]).flatten(1), expected, rtol=1e-3, atol=1e-3)
    longer = level * torch.rand(2, 1, 3, 5, generator=rng).add(0.1) * 50
    torch.testing.assert_close(memory([longer]), memory([level]), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def engine() -> FusedEngine:
    """A filled memory around an untrained teacher, and all readings that it has."""
    network = new_network(MODEL, CANVAS, REGIONS, load_teachers(MODEL, CANVAS, 1)).eval()
    recalled = fill_memory(
        network, images(8), np.arange(8), canvas=CANVAS, regions=REGIONS, seed=0, progress=lambda *_: None
    )
    assert recalled.maps.shape == (8, *GRID)
    memory = MemoryConstants(READINGS, units_of(recalled.read), recalled.surface)
    return FusedEngine(network, MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), memory=memory))


def test_its_surface_is_the_tint_alone() -> None:
    """Tokens are no map: the anomaly map has the tint beside the distances, and no finest features."""
    fitted = fit_memory(
        images(8),
        np.arange(8),
        MODEL,
        CANVAS,
        REGIONS,
        asked=Asked.of(0.01, 0.95, REGIONS),
        seed=0,
        progress=lambda *_: None,
    )
    assert fitted.constants.memory is not None
    surface = fitted.constants.memory.surface
    assert surface is not None
    assert surface.fine_matrix.size == surface.fine_offset.size == 0
    assert surface.cell_scale.shape == (2,)
    assert fitted.network.has_finest is False


def test_another_tint_shows_on_the_map(engine: FusedEngine) -> None:
    """A part that is reddish on the right and else a good one is unusual there."""
    (good,) = images(1, seed=50)
    red = good.astype(np.int64)
    red[16:48, 56:80] += (40, 0, -40)
    with torch.inference_mode():
        _, _, (before,) = engine(torch.from_numpy(good[None]))
        _, _, (after,) = engine(torch.from_numpy(red.clip(0, 255).astype(np.uint8)[None]))
    change = after - before
    assert float(change[4:12, 14:20].mean()) > 1.5
    assert float(change[:, :10].abs().mean()) < 1


def test_only_cells_of_regions_are_remembered_and_a_strange_place_is_found(engine: FusedEngine) -> None:
    """What changes in the right region raises its score and its place on the map."""
    (good,) = images(1, seed=50)
    odd = good.copy()
    odd[16:48, 56:80] = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
    with torch.inference_mode():
        (score,), (before,), _ = engine(torch.from_numpy(good[None]))
        (odd_score,), (after,), (anomaly_map,) = engine(torch.from_numpy(odd[None]))
    assert float(after[1] - before[1]) > 3
    assert float(odd_score - score) > 3
    row, column = divmod(int(anomaly_map.argmax()), anomaly_map.shape[1])
    assert anomaly_map.shape == (16, 24)
    assert 16 - 14 <= 4 * row < 48 + 14
    assert 56 - 14 <= 4 * column < 80 + 14


def test_a_saved_engine_needs_no_weights_beside_it(engine: FusedEngine, tmp_path: Path) -> None:
    """Read back, it scores alike: positions of this canvas's grid and all patches are in the file."""
    save_fused(engine, tmp_path / "network.safetensors")
    again = load_fused(tmp_path / "network.safetensors")
    part = torch.from_numpy(images(1, seed=51))
    with torch.inference_mode():
        for found, expected in zip(again(part), engine(part), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_compiled_engine_is_the_network(engine: FusedEngine, tmp_path: Path) -> None:
    """Exported and compiled by the same code as all others, it gives the network's scores and map."""
    parts = images(4, seed=52)
    compiled = compile_engine(
        engine,
        canvas=CANVAS,
        regions=len(REGIONS),
        out=tmp_path,
        engine=EngineSettings.model_validate({"precision": "f32", "threads": 1}),
        calibration_images=parts,
        parity_images=parts,
        verdicts=own_quantile(0.1),
    )
    assert compiled.network_error < 1e-3
    runtime = OpenVinoRuntime(compiled.files["model"], "f32", 1)
    found = infer(runtime, parts[0])
    with torch.inference_mode():
        _, regions, anomaly_map = engine(torch.from_numpy(parts[:1]))
    np.testing.assert_allclose(found.region_scores, regions[0].numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.anomaly_map, anomaly_map[0].numpy(), rtol=1e-3, atol=1e-3)
    runtime.close()


def test_published_weights_tell_one_weave_from_another() -> None:
    """With a real file: patches of a weave resemble another piece of the same one more than another weave."""
    if not any((SHARED / name).is_file() for name, _, _ in teachers.DINOV2_FILES):
        pytest.skip(f"{SHARED} has none of DINOv2's files")
    teacher = load_teacher("dinov2_small", 3, SHARED, CANVAS)
    rows, columns = np.mgrid[:64, :96]
    weave = (128 + 60 * np.sin(rows * 0.8) + 60 * np.sin(columns * 0.8)).clip(0, 255)
    other = (128 + 60 * np.sin((rows + columns) * 0.8) + 60 * np.sin(rows * 0.3)).clip(0, 255)
    shown = np.stack([weave, np.roll(weave, 3, axis=1), other])[..., None].repeat(3, axis=3)
    planes = (torch.from_numpy(shown).permute(0, 3, 1, 2).float() - 118) / 58
    with torch.inference_mode():
        first, same, unlike = functional.normalize(teacher(planes)[1].flatten(2), dim=1)
    nearest = [float((each.T @ first).amax(dim=1).mean()) for each in (same, unlike)]
    assert nearest[0] > nearest[1] + 0.05
