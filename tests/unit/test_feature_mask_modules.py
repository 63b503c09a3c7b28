"""SRU, CRU, SimAM, SCSAtt, FMM and the mirrored decoder: shapes, and each formula against plain NumPy in float64."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy_layers import Doubles, array, conv, deconv, maps, relu, sequence, settle, sigmoid
from torch import Tensor, nn

from engines.networks.directions import lengthened
from engines.networks.feature_mask import FeatureMask, random_masks
from engines.networks.reverse_decoder import MirrorBlock, ReverseDecoder
from engines.networks.scconv import GROUPS, ChannelReconstruction, ScConv, SpatialReconstruction
from engines.networks.scsatt import ScsAtt
from engines.networks.simam import SimAm
from engines.settings import TeacherName

TOLERANCE = 1e-10


def equal(found: Tensor, expected: Doubles) -> None:
    """The same shape and the same numbers, some of them not zero."""
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(array(found), expected, atol=TOLERANCE, rtol=TOLERANCE)


def positive_gains(module: nn.Module) -> None:
    """Gains of group norms as training leaves them: around one, each its own."""
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm):
            with torch.no_grad():
                layer.weight.copy_(torch.linspace(0.5, 1.5, len(layer.weight), dtype=torch.float64))


def sru(module: SpatialReconstruction, x: Doubles) -> Doubles:
    """Eq. 2-5, group by group."""
    gain, offset = array(module.norm.weight), array(module.norm.bias)
    normal = np.empty_like(x)
    for image in range(len(x)):
        for group in np.split(np.arange(x.shape[1]), GROUPS):
            values = x[image, group]
            normal[image, group] = (values - values.mean()) / np.sqrt(values.var() + module.norm.eps)
    normal = normal * gain[:, None, None] + offset[:, None, None]  # Eq. 2
    weights = sigmoid(normal * (gain / gain.sum())[:, None, None])  # Eq. 3, 4
    first = np.where(weights > 0.5, 1.0, weights) * x
    second = np.where(weights > 0.5, 0.0, weights) * x
    half = x.shape[1] // 2
    upper = first[:, :half] + second[:, half:]
    return np.concatenate([upper, first[:, half:] + second[:, :half]], axis=1)  # Eq. 5


def grouped_conv(layer: nn.Conv2d, x: Doubles) -> Doubles:
    """Each group of outputs sees its own group of inputs."""
    parts = []
    for group, inputs in enumerate(np.split(x, layer.groups, axis=1)):
        outputs = layer.out_channels // layer.groups
        one = nn.Conv2d(inputs.shape[1], outputs, 3, padding=1).double()
        with torch.no_grad():
            one.weight.copy_(layer.weight[group * outputs : (group + 1) * outputs])
            cast(Tensor, one.bias).copy_(cast(Tensor, layer.bias)[group * outputs : (group + 1) * outputs])
        parts.append(conv(one, inputs))
    return np.concatenate(parts, axis=1)


def cru(module: ChannelReconstruction, x: Doubles) -> Doubles:
    """Eq. 6-8."""
    half = x.shape[1] // 2
    upper, lower = conv(module.squeeze_upper, x[:, :half]), conv(module.squeeze_lower, x[:, half:])
    rich = grouped_conv(module.grouped, upper) + conv(module.pointwise_upper, upper)
    cheap = np.concatenate([conv(module.pointwise_lower, lower), lower], axis=1)
    powers = [np.exp(y.mean(axis=(2, 3), keepdims=True)) for y in (rich, cheap)]
    return np.asarray((powers[0] * rich + powers[1] * cheap) / (powers[0] + powers[1]))


def simam(x: Doubles) -> Doubles:
    """Eq. 9 as printed, then Eq. 10."""
    positions = x.shape[2] * x.shape[3]
    mean = x.mean(axis=(2, 3), keepdims=True)
    variance = ((x - mean) ** 2).sum(axis=(2, 3), keepdims=True) / (positions - 1)
    energy = 4 * (variance + 1e-4) / ((x - mean) ** 2 + 2 * variance + 2e-4)
    return np.asarray(sigmoid(1 / energy) * x)


def test_sru_exchanges_what_is_redundant_between_the_halves() -> None:
    """Group norm, weights gamma / sum, the gate at 0.5 and the crosswise sums of Eq. 2-5."""
    module = SpatialReconstruction(16)
    settle(module)
    positive_gains(module)
    x = maps(2, 16, 5, 4) + 0.3
    equal(module(x), sru(module, array(x)))


def test_sru_teaches_its_group_norm() -> None:
    """The gate lets gradients through to the gains, or the weights of Eq. 3 would stay as they begin."""
    module = SpatialReconstruction(8).double()
    module(maps(2, 8, 4, 4)).square().sum().backward()
    assert module.norm.weight.grad is not None
    assert module.norm.weight.grad.abs().max() > 1e-6


def test_cru_mixes_a_rich_and_a_cheap_half() -> None:
    """Grouped and pointwise convolution above, pointwise and identity below, soft attention per channel (Eq. 6-8)."""
    module = ChannelReconstruction(16)
    settle(module)
    x = maps(2, 16, 4, 6)
    equal(module(x), cru(module, array(x)))


@pytest.mark.parametrize("part", [SpatialReconstruction, ChannelReconstruction, ScConv])
def test_scconv_refuses_channels_that_it_cannot_divide(part: type[nn.Module]) -> None:
    """Twelve channels do not split into halves, groups and squeezed halves."""
    with pytest.raises(ValueError, match="multiple of 8 channels, got 12"):
        part(12)


def test_simam_weighs_by_energy() -> None:
    """X * sigmoid(1 / e) for the energy of Eq. 9, also where a channel is constant."""
    x = maps(2, 3, 4, 5)
    x[0, 1] = 0.7
    equal(SimAm()(x), simam(array(x)))


def test_simam_refuses_a_single_position() -> None:
    """Its variance over the other positions does not exist."""
    with pytest.raises(ValueError, match="two positions"):
        SimAm()(maps(1, 3, 1, 1))


@pytest.mark.parametrize("with_scconv", [True, False])
@pytest.mark.parametrize("with_simam", [True, False])
def test_scsatt_is_scconv_then_mixing_then_simam(with_scconv: bool, with_simam: bool) -> None:
    """Each part can be taken out: an ordinary 3x3 convolution in place of SCConv, nothing in place of SimAM."""
    module = ScsAtt(8, scconv=with_scconv, simam=with_simam)
    settle(module)
    positive_gains(module)
    x = maps(2, 8, 4, 6)
    gather, norm = cast(nn.Sequential, module.gather[0])
    if with_scconv:
        space, channels = cast(nn.Sequential, gather)
        y = cru(cast(ChannelReconstruction, channels), sru(cast(SpatialReconstruction, space), array(x)))
    else:
        y = conv(cast(nn.Conv2d, gather), array(x))
    y = sequence(module.mix, relu(sequence(nn.Sequential(norm), y)))
    equal(module(x), simam(y) if with_simam else y)


def test_fmm_fills_in_what_is_masked() -> None:
    """1x1, mask, 3x3, ReLU, 3x3; without a mask the same convolutions; without a generator only the first."""
    module = FeatureMask(4, 6, 5, generate=True)
    settle(module)
    x = maps(2, 4, 5, 4)
    (mask,) = random_masks([x], 0.5, [1])
    assert module.generator is not None
    aligned = conv(module.align, array(x))
    layers = cast(nn.Sequential, module.generator)
    equal(module(x, mask), sequence(layers, aligned * array(mask)))
    equal(module(x), sequence(layers, aligned))
    plain = FeatureMask(4, 6, 5, generate=False)
    settle(plain)
    equal(plain(x), conv(plain.align, array(x)))


def test_masks_hide_positions_at_their_rate() -> None:
    """Eq. 11: zeros and ones, one per position for all channels, about `rate` of them zero; 0 hides nothing, 1 all."""
    levels = [torch.zeros(4, 7, 64, 32), torch.zeros(4, 9, 32, 16)]
    masks = random_masks(levels, 0.3, [5, 1])
    assert [tuple(mask.shape) for mask in masks] == [(4, 1, 64, 32), (4, 1, 32, 16)]
    assert all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in masks)
    assert abs(1 - masks[0].mean().item() - 0.3) < 0.03
    assert all(mask.min() == 1 for mask in random_masks(levels, 0.0, [5, 1]))
    assert all(mask.max() == 0 for mask in random_masks(levels, 1.0, [5, 1]))


def test_masks_depend_on_their_seed_only() -> None:
    """The same seed draws the same masks, another one others, and torch's own generator goes on as if nothing were."""
    levels = [torch.zeros(2, 3, 16, 16)]
    torch.manual_seed(3)
    undisturbed = torch.rand(1)
    torch.manual_seed(3)
    first = random_masks(levels, 0.5, [1, 2])[0]
    assert torch.equal(torch.rand(1), undisturbed)
    assert torch.equal(first, random_masks(levels, 0.5, [1, 2])[0])
    assert not torch.equal(first, random_masks(levels, 0.5, [1, 3])[0])


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("narrowing", [None, 2])
def test_a_mirrored_block_is_a_residual_block_that_may_double_the_side(up: bool, narrowing: int | None) -> None:
    """Branch plus shortcut, ReLU; the doubling is a 2x2 deconvolution in both."""
    module = MirrorBlock(6 if up else 8, 8, up=up, narrowing=narrowing)
    settle(module)
    x = maps(2, 6 if up else 8, 3, 4)
    shortcut = sequence(module.shortcut, array(x)) if isinstance(module.shortcut, nn.Sequential) else array(x)
    equal(module(x), relu(sequence(module.branch, array(x)) + shortcut))
    kernels = [layer.kernel_size for layer in module.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert kernels == ([(2, 2)] * 2 if up else [])


def test_a_deconvolution_of_two_spreads_each_value_over_its_own_four() -> None:
    """The doubling mixes no neighbours: a 2x2 kernel, 2 apart."""
    layer = nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False).double()
    x = maps(1, 1, 2, 2)
    equal(layer(x), np.kron(array(x), array(layer.weight)[0]))
    equal(layer(x), deconv(layer, array(x)))


@pytest.mark.parametrize(
    ("teacher", "blocks"),
    [("resnet18", [2, 2, 2]), ("wide_resnet50_2", [6, 4, 3]), ("efficientnet_lite0", [2, 2, 2])],
)
def test_the_decoder_mirrors_the_teacher(teacher: TeacherName, blocks: list[int]) -> None:
    """From the deepest level up, as many blocks as the teacher has; its levels come back the finest first."""
    module = ReverseDecoder(16, (4, 8, 16), teacher).eval()
    assert [len(cast(nn.Sequential, stage)) for stage in module.stages] == blocks
    levels = module(torch.zeros(2, 16, 1, 2))
    assert [tuple(level.shape) for level in levels] == [(2, 4, 8, 16), (2, 8, 4, 8), (2, 16, 2, 4)]


def test_lengthened_vectors_keep_their_direction() -> None:
    """Each position gets the target's length and the imitation's direction; a zero vector stays one."""
    imitation, target = maps(2, 6, 3, 4, seed=1), maps(2, 6, 3, 4, seed=2)
    imitation[0, :, 0, 0] = 0.0
    given, wanted = (np.linalg.norm(array(level), axis=1, keepdims=True) for level in (imitation, target))
    equal(lengthened(imitation, target), array(imitation) / np.maximum(given, 1e-6) * wanted)
