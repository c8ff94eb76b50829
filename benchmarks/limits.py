"""What a device reaches in this run, and the least time that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from benchmarks.timing import device as device_timing
from benchmarks.timing import wall
from benchmarks.timing.work import Work

COPIED = 2 << 30
"""Bytes of the buffer that a GPU copies: many times its cache."""


@dataclass(frozen=True)
class Limits:
    """Bytes per second, and operations per second in a product."""

    bytes_per_second: float
    operations_per_second: float

    @classmethod
    def of_cpu(cls) -> Self:
        """A plain read and a plain float32 product."""
        data = torch.ones(64 << 20, dtype=torch.float32)
        left = torch.randn(2048, 2048)
        read, product = wall.seconds(data.sum, 1.0), wall.seconds(lambda: left @ left, 1.0)
        return cls(data.numel() * data.element_size() / read, 2 * 2048**3 / product)

    @classmethod
    def of_gpu(cls, device: str, dtype: torch.dtype) -> Self:
        """A plain copy, counting bytes read and written, and torch's product of random matrices of this dtype."""
        free, _ = torch.cuda.mem_get_info(device)
        size = min(COPIED, free // 4)
        source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copy = device_timing.measure(Work([lambda: target.copy_(source)]), 0.3).times
        left, right = torch.randn(2, 8192, 8192, device=device).to(dtype)
        product = device_timing.measure(Work([lambda: left @ right]), 0.3).times
        return cls(2 * size / copy.median, 2 * 8192**3 / product.median)

    def seconds(self, *, bytes_moved: float, operations: float) -> float:
        """The least time for so many bytes and operations, if each hides behind the other."""
        return max(bytes_moved / self.bytes_per_second, operations / self.operations_per_second)
