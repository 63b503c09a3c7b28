"""The stages that run as CUDA kernels of our own: what a runtime needs to launch them. NumPy only, probes no device."""

from engines.kernels.image import KernelImage, kernel_images
from engines.kernels.plan import ABI, Combine, KernelAbi, Launch, PatchGmsdPlan

__all__ = ["ABI", "Combine", "KernelAbi", "KernelImage", "Launch", "PatchGmsdPlan", "kernel_images"]
