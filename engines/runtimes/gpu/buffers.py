"""One slot's memory: page-locked host arrays and device memory, allocated once; the answer lies in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.runtimes.gpu.device import GpuDevice
from engines.runtimes.gpu.surface import CudaDriver, PageLockedMemory

ALIGNMENT: Final = 256
"""Bytes: what TensorRT asks of a tensor's address, and what cuMemAlloc gives."""


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of the answer: its shape (float32), and its first byte."""

    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return 4 * prod(self.shape)


@dataclass(frozen=True, slots=True)
class AnswerLayout:
    """Where each tensor lies in the block that the device fills; the first `copied` bytes of it travel to the host."""

    fields: Mapping[str, Field]
    size: int
    copied: int


def lay_out(copied: Mapping[str, tuple[int, ...]], kept: Mapping[str, tuple[int, ...]]) -> AnswerLayout:
    """Lay float32 tensors out one after the other, aligned: those that are copied to the host, then the others."""
    fields: dict[str, Field] = {}
    end = sent = 0
    for name, shape in {**copied, **kept}.items():
        fields[name] = Field(shape, -(-end // ALIGNMENT) * ALIGNMENT)
        end = fields[name].offset + fields[name].size
        sent = end if name in copied else sent
    return AnswerLayout(fields, end, sent)


class SlotBuffers:
    """Host and device memory of one slot.

    host_input: (N, H, W, 3) uint8 and host_answer: bytes, both page-locked, so that copies run beside the processor.
    A view of them must not be touched after the device was closed.
    """

    def __init__(
        self, driver: CudaDriver, device: GpuDevice, input_shape: tuple[int, ...], layout: AnswerLayout
    ) -> None:
        """Allocate; the device's context must be current. Raises driver.Error, for one where memory is short."""
        self.layout = layout
        self.input_address = allocate(driver, device, prod(input_shape))
        self.answer_address = allocate(driver, device, layout.size)
        self.host_input = page_locked(driver, device, input_shape)
        self.host_answer = page_locked(driver, device, (layout.copied,))

    def address(self, name: str) -> int:
        """Where a tensor of the answer lies on the device."""
        return self.answer_address + self.layout.fields[name].offset

    def copied(self) -> dict[str, NDArray[np.float32]]:
        """Views of the tensors that come to the host, (N, ...) float32."""
        return {
            name: self.host_answer[field.offset : field.offset + field.size].view(np.float32).reshape(field.shape)
            for name, field in self.layout.fields.items()
            if field.offset < self.layout.copied
        }


def allocate(driver: CudaDriver, device: GpuDevice, size: int) -> int:
    """Device memory that lives as long as the device; its address. Raises driver.Error."""
    memory = driver.mem_alloc(size)
    device.free_later(memory.free)
    return int(memory)


def page_locked(driver: CudaDriver, device: GpuDevice, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Zeroed uint8 host memory, page-locked, that lives as long as the device. Raises driver.Error."""
    pages = driver.pagelocked_empty(shape, np.uint8)
    base: PageLockedMemory = pages.base  # type: ignore[assignment]
    device.free_later(base.free)
    pages[...] = 0
    return pages
