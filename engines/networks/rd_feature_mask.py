"""Family rd_feature_mask: reverse distillation through an attentive bottleneck and masked features (CJIF 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from engines.networks.blocks import conv_bn
from engines.networks.directions import lengthened
from engines.networks.discriminator import Discriminator
from engines.networks.feature_mask import FeatureMask
from engines.networks.mff import Mff
from engines.networks.oce import Oce
from engines.networks.reverse_decoder import ReverseDecoder
from engines.networks.scsatt import ScsAtt
from engines.networks.teacher_student import TeacherStudent
from engines.settings import ModelSettings
from engines.teachers import Teacher


class RdFeatureMask(TeacherStudent):
    """F_B = OCE(SCSAtt(MSFF(F_E))), F_D = Decoder(F_B) (Eq. 1), F_G = FMM(F_D): what the student gives for F_E.

    MSFF is MFF, then a 1x1 convolution, BN and ReLU. Level k = 1..3 of the decoder has width / 2^(3-k) channels: those
    of a ResNet where `width` is the width of its third level, as in the paper.
    The paper compares directions only (Eq. 12). `score: calibrated` needs residuals as well, so an imitation has the
    student's direction and its target's length.
    """

    def __init__(
        self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None = None
    ) -> None:
        super().__init__(model, teachers, discriminator)
        settings = model.rd_feature_mask
        width = settings.width
        mff = Mff(self.totals, width)
        self.bottleneck = nn.Sequential(
            nn.Sequential(conv_bn(mff.channels, width, kernel=1), nn.ReLU(inplace=True)),
            ScsAtt(width, scconv=settings.scconv, simam=settings.simam),
            Oce(width, 2 * width),
        )
        self.mff = mff
        widths = [width >> (len(self.totals) - 1 - level) for level in range(len(self.totals))]
        self.decoder = ReverseDecoder(2 * width, widths, teachers[0].name)
        self.feature_masks = nn.ModuleList(
            [
                FeatureMask(inputs, outputs, inputs, generate=settings.fmm)
                for inputs, outputs in zip(widths, self.totals, strict=True)
            ]
        )

    def decode(self, targets: Sequence[Tensor]) -> list[Tensor]:
        """F_D: level k = 1..3 (N, width / 2^(3-k), H_k, W_k) from F_E, shaped as `targets`."""
        return self.decoder(self.bottleneck(self.mff(targets)))  # type: ignore[no-any-return]

    def restore(self, decoded: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        """F_G, shaped as the targets, from F_D and a mask M_A (N, 1, H_k, W_k) per level; None masks nothing."""
        return [fmm(level, mask) for fmm, level, mask in zip(self.feature_masks, decoded, masks, strict=True)]

    def imitate(self, planes: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
        """F_G for teacher features F_E, nothing masked, at the lengths of F_E; the planes are not looked at."""
        decoded = self.decode(targets)
        given = self.restore(decoded, [None] * len(decoded))
        return [lengthened(level, target) for level, target in zip(given, targets, strict=True)]

    def students(self) -> tuple[nn.Module, ...]:
        """Bottleneck, decoder and FMM are trained together."""
        return self.mff, self.bottleneck, self.decoder, self.feature_masks
