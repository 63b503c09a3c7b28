"""Where a learnt part lies in a frame: template, foreground, alignment. NumPy and OpenCV only; the daemon uses it."""

from engines.alignment.aligner import Aligner, Alignment
from engines.alignment.foreground import Ground
from engines.alignment.guess import Misaligned
from engines.alignment.template import TEMPLATE_NAME, PartTemplate, load_template, save_template

__all__ = [
    "TEMPLATE_NAME",
    "Aligner",
    "Alignment",
    "Ground",
    "Misaligned",
    "PartTemplate",
    "load_template",
    "save_template",
]
