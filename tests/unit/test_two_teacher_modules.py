"""MS-CAM, iAFF, MFF, OCE and the two-branch student: shapes, and each formula against plain NumPy in float64."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy_layers import Doubles, array, batch_norm, conv, deconv, maps, relu, sequence, settle, sigmoid
from torch import Tensor, nn

from engines.networks.iaff import Iaff
from engines.networks.mff import Mff
from engines.networks.ms_cam import MsCam
from engines.networks.oce import Bottleneck, Oce
from engines.networks.two_branch import BasicUpBlock, StudentDecoder

TOLERANCE = 1e-10


def equal(found: Tensor, expected: Doubles) -> None:
    """The same shape and the same numbers, some of them not zero."""
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(array(found), expected, atol=TOLERANCE, rtol=TOLERANCE)


def ms_cam_weights(module: MsCam, x: Doubles) -> Doubles:
    """sigmoid(L(X) + g(X)): Eq. 1-3 of Dai et al., layer by layer."""

    def branch(layers: nn.Sequential, inputs: Doubles) -> Doubles:
        (narrow, narrow_norm), _, (wide, wide_norm) = cast(list[nn.Sequential], list(layers))
        inside = relu(batch_norm(cast(nn.BatchNorm2d, narrow_norm), conv(cast(nn.Conv2d, narrow), inputs)))
        return batch_norm(cast(nn.BatchNorm2d, wide_norm), conv(cast(nn.Conv2d, wide), inside))

    pooled = x.mean(axis=(2, 3), keepdims=True)
    return sigmoid(branch(module.local_branch, x) + branch(module.global_branch, pooled))


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_ms_cam_weighs_channels_by_a_local_and_a_global_branch(reduction: int) -> None:
    """X * sigmoid(L(X) + g(X)) for each reduction r of the paper's table 6."""
    module = MsCam(16, reduction)
    settle(module)
    x = maps(2, 16, 4, 6)
    equal(module(x), array(x) * ms_cam_weights(module, array(x)))


def test_ms_cam_keeps_at_least_one_channel() -> None:
    """Fewer channels than r do not leave an empty branch."""
    module = MsCam(3, 8)
    settle(module)
    assert module(maps(1, 3, 2, 2)).shape == (1, 3, 2, 2)


def test_iaff_fuses_in_two_rounds() -> None:
    """Eq. 4 of Dai et al. on X + Y, and once more on what that gave; the two rounds have weights of their own."""
    module = Iaff(8, 4)
    settle(module)
    x, y = maps(2, 8, 3, 5, seed=1), maps(2, 8, 3, 5, seed=2)
    weights = ms_cam_weights(module.first, array(x) + array(y))
    between = weights * array(x) + (1 - weights) * array(y)
    weights = ms_cam_weights(module.second, between)
    equal(module(x, y), weights * array(x) + (1 - weights) * array(y))


def test_iaff_of_a_map_with_itself_is_that_map() -> None:
    """The weights of both sides sum to one."""
    module = Iaff(8, 4)
    settle(module)
    x = maps(1, 8, 4, 4)
    torch.testing.assert_close(module(x, x), x)


@pytest.mark.parametrize("coarsest", [12, 10])
def test_mff_brings_three_levels_onto_one_grid(coarsest: int) -> None:
    """Strided 3x3 convolutions, BN and ReLU for levels one and two; level three as it is where it is `width` wide."""
    width = 10
    module = Mff((4, 6, coarsest), width)
    settle(module)
    levels = [maps(2, 4, 16, 8), maps(2, 6, 8, 4), maps(2, coarsest, 4, 2)]
    fine, middle, coarse = module.paths
    expected = [
        sequence(cast(nn.Sequential, fine), array(levels[0])),
        sequence(cast(nn.Sequential, middle), array(levels[1])),
        array(levels[2]) if coarsest == width else sequence(cast(nn.Sequential, coarse), array(levels[2])),
    ]
    assert [layer.stride for layer in module.modules() if isinstance(layer, nn.Conv2d)][:3] == [(2, 2)] * 3
    equal(module(levels), np.concatenate(expected, axis=1))
    assert module.channels == 3 * width


def test_mff_wants_three_levels() -> None:
    """Another number of levels is refused at construction."""
    with pytest.raises(ValueError, match="3 levels, got 2"):
        Mff((4, 8), 16)


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (6, 1), (6, 2)])
def test_a_bottleneck_adds_its_branch_to_its_shortcut(inputs: int, stride: int) -> None:
    """The shortcut is the identity, a 1x1 convolution, or an average and a 1x1 convolution; ReLU after the sum."""
    module = Bottleneck(inputs, 8, stride)
    settle(module)
    x = maps(2, inputs, 4, 6)
    equal(module(x), relu(sequence(module.branch, array(x)) + sequence(module.shortcut, array(x))))


def test_oce_halves_the_grid() -> None:
    """The paper's shapes, at an eighth of its widths: 384 x 16 x 16 becomes 256 x 8 x 8."""
    module = Oce(384, 256).eval()
    with torch.no_grad():
        assert module(torch.zeros(1, 384, 16, 16)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize("two_branch", [True, False])
def test_an_up_block_adds_two_ways_to_twice_the_side(two_branch: bool) -> None:
    """Fig. 2b: deconvolution and BN, plus convolution, BN, ReLU and deconvolution; `plain` has the first alone."""
    module = BasicUpBlock(6, 4, two_branch)
    settle(module)
    x = array(maps(2, 6, 3, 5))
    direct, norm = module.direct
    raised = batch_norm(cast(nn.BatchNorm2d, norm), deconv(cast(nn.ConvTranspose2d, direct), x))
    if module.convolved is not None:
        (narrow, narrow_norm), _, up = cast(list[nn.Sequential], list(module.convolved))
        inside = relu(batch_norm(cast(nn.BatchNorm2d, narrow_norm), conv(cast(nn.Conv2d, narrow), x)))
        raised = raised + deconv(cast(nn.ConvTranspose2d, up), inside)
    assert (module.convolved is not None) == two_branch
    assert (raised < 0).any()
    equal(module(torch.from_numpy(x)), relu(raised))


def test_the_student_decodes_the_papers_levels() -> None:
    """The paper's shapes, at a sixteenth of its channels: 8x8 to 80 x 16 x 16, 40 x 32 x 32 and 20 x 64 x 64."""
    student = StudentDecoder(128, 64, (20, 40, 80), two_branch=True, signed=False).eval()
    with torch.no_grad():
        levels = student(torch.randn(2, 128, 8, 8))
    assert [tuple(level.shape) for level in levels] == [(2, 20, 64, 64), (2, 40, 32, 32), (2, 80, 16, 16)]
    assert all((level >= 0).all() for level in levels)


def test_the_student_of_signed_features_reaches_below_zero() -> None:
    """A linear convolution at each level's end, and none of it carried on to the next level."""
    student = StudentDecoder(12, 8, (4, 6, 8), two_branch=True, signed=True)
    settle(student)
    code = maps(1, 12, 2, 3)
    levels = student(code)
    assert all((level < 0).any() for level in levels)
    raised = student.stages[1](student.stages[0](code))
    torch.testing.assert_close(levels[1], student.heads[1](raised))
