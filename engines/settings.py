"""What a network is told: family, teachers, canvas, regions, training and runtime. Part of a station's settings.

Lives here, not in `inspectd.config`, because calibration and the bundle need it and may import `engines` only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
TeacherName = Literal[
    "efficientnet_lite0",
    "efficientnet_lite1",
    "vgg16",
    "vgg19",
    "resnet18",
    "resnet34",
    "resnet50",
    "wide_resnet50_2",
    "dinov2_small",
]
Family = Literal["dtkd", "stpm", "rd_two_teachers", "rd_feature_mask"]
Weight = Annotated[float, Field(ge=0)]
MOST_PARTS = 32
"""In one inference of a TensorRT plan."""
MEMORY_PATCHES = 6000
"""That `score: memory` keeps where the settings do not say how many."""
MOST_PATCHES = 65_536
"""That a memory keeps: 32 MiB, of DINOv2 96 MiB."""
MEMORY_LEVELS = 3
"""Levels of the teachers that a memory needs."""


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CanvasSettings(Settings):
    """The part image: what the engine gets."""

    height_px: int = Field(128, ge=32, le=1024, description="canvas height, a multiple of 32")
    width_px: int = Field(128, ge=32, le=1024, description="canvas width, a multiple of 32")

    @model_validator(mode="after")
    def _multiple_of_32(self) -> Self:
        if self.height_px % 32 or self.width_px % 32:
            raise ValueError(f"canvas {self.height_px}x{self.width_px}: both sides must be multiples of 32")
        return self


class RegionSettings(Settings):
    """A named area of the part image, and how Patch_GMSD cuts it."""

    name: Name = Field(description="unique in the station; appears in verdicts and reports")
    top_px: int = Field(ge=0, description="first row of the region on the canvas")
    left_px: int = Field(ge=0, description="first column")
    height_px: int = Field(ge=3, description="rows")
    width_px: int = Field(ge=3, description="columns")
    patches: tuple[tuple[int, int], ...] = Field(
        default=(),
        description="one (rows, columns) per scale j of Eq. 14, the finest first; empty: no Patch_GMSD here",
    )

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        for rows, columns in self.patches:
            if rows < 1 or columns < 1 or self.height_px // rows < 3 or self.width_px // columns < 3:
                raise ValueError(
                    f"region {self.name}: {rows}x{columns} patches on {self.height_px}x{self.width_px} pixels "
                    "leave patches of fewer than 3 pixels a side"
                )
        return self


class PatchGmsdSettings(Settings):
    """Patch_GMSD's options (Eq. 12-16 of the dtkd paper)."""

    neighbours: bool = Field(True, description="Eq. 15: also compare with the neighbouring patches of the region")
    neighbours_from: Literal["image", "reconstruction"] = Field("image", description="where those patches come from")
    measure: Literal["deviation", "mean"] = Field(
        "deviation", description="of MSGMS over a patch: Eq. 16, or 1 - mean, which is MSGMS itself (table 4, baseline)"
    )


class TrainingSettings(Settings):
    """How the student, ATAA and decoder are trained; a preset fills these in."""

    steps: int = Field(ge=1, description="optimiser steps of stage one (student and ATAA)")
    decoder_steps: int = Field(ge=0, description="optimiser steps of stage two (decoder)")
    discriminator_steps: int = Field(
        400, ge=1, description="optimiser steps that fit the discriminator to the station, by its own schedule"
    )
    batch: int = Field(32, ge=1, le=512, description="part images per step")
    optimiser: Literal["adam", "sgd"] = Field("adam", description="SGD uses momentum 0.9, weight decay 1e-4")
    learning_rate: float = Field(1e-3, gt=0, description="initial rate")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        "constant", description="how the rate moves over the steps; one_cycle: up over a fifth of them, then down"
    )


class StpmSettings(Settings):
    """Options of family stpm (student-teacher feature pyramid matching)."""

    level_weights: tuple[Weight, Weight, Weight] = Field(
        (1.0, 1.0, 1.0), description="alpha of Eq. 3 for the levels of stride 4, 8, 16; 0: the level is left out"
    )
    validation_share: float = Field(
        0.2, gt=0, lt=1, description="share of the training parts that choose the student's weights instead"
    )
    validate_every: int = Field(10, ge=1, description="optimiser steps between two looks at these parts")

    @model_validator(mode="after")
    def _some_level(self) -> Self:
        if not any(self.level_weights):
            raise ValueError("stpm.level_weights: at least one must be above 0")
        return self


class RdTwoTeachersSettings(Settings):
    """Options of family rd_two_teachers (reverse distillation from two teachers), table 7 of its paper among them."""

    width: int = Field(
        128,
        ge=8,
        le=1024,
        multiple_of=2,
        description="channels that MFF brings each level to (1024 in the paper); the other widths follow",
    )
    ms_cam: bool = Field(True, description="MS-CAM on each level of each teacher")
    reduction: int = Field(8, ge=1, le=64, description="r of MS-CAM, also inside iAFF (table 6; 8 gave its figures)")
    iaff: bool = Field(True, description="iAFF fuses the two teachers' maps; off: they are added")
    student: Literal["two_branch", "plain"] = Field(
        "two_branch", description="its blocks: both branches of Fig. 2b, or the deconvolution alone"
    )


class RdFeatureMaskSettings(Settings):
    """Options of family rd_feature_mask (feature mask generation and reverse distillation)."""

    width: int = Field(
        128,
        ge=16,
        le=1024,
        multiple_of=8,
        description="channels of MSFF and of the decoder's third level; in the paper as many as the teacher's third: "
        "256 for resnet18, 1024 for resnet50 and wide_resnet50_2",
    )
    scconv: bool = Field(True, description="SCSAtt with SCConv; off: an ordinary 3x3 convolution (table 6)")
    simam: bool = Field(True, description="SCSAtt with SimAM, Eq. 9-10 (table 6)")
    fmm: bool = Field(True, description="FMM's masks and generator; off: its 1x1 alignment alone (table 5)")
    mask_rate: float = Field(0.5, ge=0, lt=1, description="lambda_M of Eq. 11, which the paper does not give")
    lambda_r: float = Field(1e-5, ge=0, description="weight of L2 in Eq. 14, which the paper does not give")
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="share of the training parts that choose the student's weights instead"
    )
    validate_every: int = Field(20, ge=1, description="optimiser steps between two looks at these parts")
    patience: int = Field(10, ge=1, description="looks without improvement after which training ends")


STPM_TRAINING = {"optimiser": "sgd", "learning_rate": 0.4}
RD_TWO_TEACHERS_TRAINING = {"batch": 8, "learning_rate": 5e-3, "schedule": "cosine"}
"""Section 4.3 of its paper but for the batch, which is 4 there."""
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "stpm": {
        "teachers": ("efficientnet_lite0",),
        "attention": False,
        "decoder": False,
        "quick": {"steps": 300, "decoder_steps": 0, "discriminator_steps": 1000, **STPM_TRAINING},
        "full": {"steps": 4000, "decoder_steps": 0, "discriminator_steps": 4000, **STPM_TRAINING},
    },
    "rd_two_teachers": {
        "attention": False,
        "decoder": False,
        "quick": {"steps": 300, "decoder_steps": 0, "discriminator_steps": 1000, **RD_TWO_TEACHERS_TRAINING},
        "full": {"steps": 4000, "decoder_steps": 0, "discriminator_steps": 4000, **RD_TWO_TEACHERS_TRAINING},
    },
    "rd_feature_mask": {
        "teachers": ("efficientnet_lite0",),
        "attention": False,
        "decoder": False,
        "quick": {"steps": 300, "decoder_steps": 0, "discriminator_steps": 1000, "batch": 8},
        "full": {"steps": 4000, "decoder_steps": 0, "discriminator_steps": 4000, "batch": 16},
    },
}
"""Defaults of ModelSettings that a family other than dtkd has otherwise."""

CALIBRATED_DEFAULTS: dict[str, Any] = {
    "quick": {
        "steps": 200,
        "decoder_steps": 100,
        "discriminator_steps": 1000,
        "batch": 16,
        "learning_rate": 3e-3,
        "schedule": "one_cycle",
    },
}
"""Defaults of ModelSettings that dtkd's `score: calibrated` has otherwise: the rest are the paper's optimiser, rate and
batch."""

MEMORY_DEFAULTS: dict[str, Any] = {
    "memory_patches": MEMORY_PATCHES,
    "attention": False,
    "decoder": False,
    "discriminator": False,
}
"""Defaults of ModelSettings that `score: memory` has otherwise: nothing is trained."""


class ModelSettings(Settings):
    """The network family and its options; names follow the papers."""

    family: Family = Field(
        "dtkd", description="network family (docs/families.md); some defaults below differ by family"
    )
    teachers: tuple[TeacherName, ...] = Field(
        ("efficientnet_lite0", "efficientnet_lite1"),
        min_length=1,
        max_length=2,
        description="frozen backbones (docs/weights.md); dinov2_small: alone, with score memory",
    )
    weights_folder: str | None = Field(
        None, description="local folder with the weight files of torchvision's teachers or DINOv2, if any"
    )
    levels: int = Field(
        3, ge=3, le=4, description="feature levels compared, of strides 4, 8, 16 (and 32: family dtkd only)"
    )
    distance: Literal["mse", "cosine"] = Field("mse", description="Eq. 1 or Eq. 2")
    random_teachers: bool = Field(
        False, description="ablation only: teachers with random weights, which know nothing (docs/weights.md)"
    )
    attention: bool = Field(True, description="ATAA, Eq. 7-10")
    decoder: bool = Field(True, description="image reconstruction and Patch_GMSD, Eq. 11-19")
    features: bool = Field(
        True, description="ablation, with score paper: off, the decoder's Patch_GMSD alone is the score (Eq. 12)"
    )
    distillation: bool = Field(
        True, description="ablation, with features off: off, student and decoder are an autoencoder without a teacher"
    )
    discriminator: bool = Field(
        True, description="score calibrated only: small networks taught with drawn-on defects (docs/scores.md)"
    )
    memory_patches: int = Field(
        0,
        ge=0,
        le=MOST_PATCHES,
        description="patches of good parts that the memory keeps (docs/scores.md), score memory and calibrated; 0: no "
        "memory. More know more, and take as much longer",
    )
    score: Literal["memory", "calibrated", "paper"] = Field(
        "calibrated",
        description="memory: the nearest remembered patch, without any training; calibrated: also the student's "
        "deviations and Patch_GMSD (docs/scores.md); paper: Eq. 11 and 17 as printed",
    )
    lambda_m: float = Field(2.0, ge=0, description="Eq. 6")
    lambda_a: float = Field(0.01, ge=0, description="Eq. 10")
    lambda_s: float = Field(2.0, ge=0, description="Eq. 10")
    lambda_c: float = Field(0.04, ge=0, description="Eq. 19")
    patch_gmsd: PatchGmsdSettings = PatchGmsdSettings()
    quick: TrainingSettings = TrainingSettings(steps=300, decoder_steps=150, discriminator_steps=1000)
    full: TrainingSettings = TrainingSettings(steps=4000, decoder_steps=4000, discriminator_steps=4000)
    stpm: StpmSettings = StpmSettings()
    rd_two_teachers: RdTwoTeachersSettings = RdTwoTeachersSettings()
    rd_feature_mask: RdFeatureMaskSettings = RdFeatureMaskSettings()

    @property
    def student(self) -> bool:
        """Whether there is a student, which has to be trained."""
        return self.score != "memory"

    @property
    def untrained(self) -> Self:
        """The same teachers with the memory alone, which is what calibration's preset `instant` makes."""
        if not self.student:
            return self
        kept = self.model_dump(include={"teachers", "weights_folder", "random_teachers"})
        if self.memory_patches:
            kept["memory_patches"] = self.memory_patches
        return type(self).model_validate({"score": "memory", **kept})

    @property
    def teacher_levels(self) -> int:
        """How many levels of the teachers are needed: those compared, and those remembered."""
        return max(self.levels if self.student else 0, MEMORY_LEVELS if self.memory_patches else 0)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_family(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if given.get("score") == "memory":
            return {**MEMORY_DEFAULTS, **given}
        family = given.get("family", "dtkd")
        if family == "dtkd" and given.get("score", "calibrated") == "calibrated":
            return {**CALIBRATED_DEFAULTS, **given}
        defaults = FAMILY_DEFAULTS.get(family, {}) if isinstance(family, str) else {}
        presets = {
            name: {**defaults[name], **given[name]}
            for name in ("quick", "full")
            if name in defaults and isinstance(given.get(name), dict)
        }
        return {**defaults, **given, **presets}

    @model_validator(mode="after")
    def _options_of_the_score(self) -> Self:
        if self.score == "memory" and (self.attention or self.decoder or self.discriminator):
            raise ValueError("attention, decoder and discriminator are trained; score: memory trains nothing")
        if self.score == "memory" and not self.memory_patches:
            raise ValueError("score: memory needs memory_patches")
        if self.score == "paper" and self.memory_patches:
            raise ValueError("memory_patches: score: paper has no memory")
        if "dinov2_small" in self.teachers and (self.score != "memory" or len(self.teachers) > 1):
            raise ValueError(
                "teachers: dinov2_small gives one grid of patches to a memory, nothing that a student could imitate "
                "or that lies on another teacher's grid: it needs score: memory and no teacher beside it"
            )
        return self

    @model_validator(mode="after")
    def _options_of_the_family(self) -> Self:
        if self.family != "dtkd" and (self.attention or self.decoder):
            raise ValueError(f"attention and decoder belong to family dtkd; family {self.family} has neither")
        if self.family != "dtkd" and self.levels != 3:
            raise ValueError(f"levels: family {self.family} compares three, as its paper; only dtkd may have four")
        if self.family in {"stpm", "rd_feature_mask"} and len(self.teachers) != 1:
            raise ValueError(
                f"family {self.family} has one teacher, got {len(self.teachers)}; for example teachers: [resnet18]"
            )
        if not self.features and not (self.decoder and self.score == "paper"):
            raise ValueError("features: false leaves the score to Patch_GMSD: it needs decoder: true and score: paper")
        if not self.distillation and self.features:
            raise ValueError("distillation: false teaches the student no features: it needs features: false")
        for name, preset in (("quick", self.quick), ("full", self.full)):
            if self.family in {"rd_two_teachers", "rd_feature_mask"} and preset.batch < 2:
                raise ValueError(f"{name}.batch: family {self.family} needs at least 2, for its batch norms")
        return self


class EngineSettings(Settings):
    """Which runtime runs the fused graph, and how."""

    runtime: Literal["auto", "openvino", "torch", "tensorrt"] = Field(
        "auto",
        description="auto: TensorRT where a GPU, its packages and a plan of `inspectd build` are there, else the "
        "bundle's own, OpenVINO (docs/gpu.md)",
    )
    precision: Literal["auto", "f32", "bf16", "int8"] = Field(
        "auto", description="auto: the fastest that keeps parity with f32 (docs/engine.md)"
    )
    threads: int = Field(1, ge=0, le=256, description="inference threads; 0: one per core")
    plan_precision: Literal["auto", "f32", "f16", "int8"] = Field(
        "auto", description="of the TensorRT plan; auto: f16, or f32 where f16 does not reproduce the golden images"
    )
    batch: int = Field(
        1,
        ge=1,
        le=MOST_PARTS,
        description="part images that a TensorRT plan takes at once, for stations whose parts come in groups; the "
        "engines for CPUs take one, whatever stands here",
    )
    batch_wait_ms: float = Field(
        2.0, ge=0, le=1000, description="how long a part that is alone waits for company where batch is above 1"
    )
    plans: str = Field("plans", description="folder of the TensorRT plans that `inspectd build` made on this machine")
    plans_bytes: int = Field(
        4 * 2**30, ge=2**20, description="TensorRT plans together; the oldest go first, the newest always stays"
    )


def check_regions(canvas: CanvasSettings, regions: tuple[RegionSettings, ...], decoder: bool) -> None:
    """Raise ValueError where regions leave the canvas, share a name, or lack patches that the decoder's score needs."""
    names = [region.name for region in regions]
    if len(set(names)) != len(names):
        raise ValueError(f"region names must be unique, got {names}")
    for region in regions:
        if region.top_px + region.height_px > canvas.height_px or region.left_px + region.width_px > canvas.width_px:
            raise ValueError(
                f"region {region.name} reaches row {region.top_px + region.height_px}, column "
                f"{region.left_px + region.width_px}; the canvas is {canvas.height_px}x{canvas.width_px}"
            )
        if decoder and not region.patches:
            raise ValueError(f"region {region.name}: a station with a decoder needs patches in each region")
