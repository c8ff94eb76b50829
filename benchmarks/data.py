"""Matrices that look like those of a language model, made on the device that uses them."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_like(
    rows: int, columns: int, tokens: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight [R, C], inputs [C, N] and Wanda's column scale [C].

    Rows and columns of the weight differ in size; the inputs share a direction, have 48 strong components, channels of
    very different size and six huge ones, as activations of language models do.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    components = normal(48, tokens) * torch.logspace(0, -1.5, 48, device=device)[:, None]
    inputs = normal(columns, 48) @ components * 0.6 + normal(columns, tokens) * 0.5 + normal(columns, 1) * 0.3
    inputs *= torch.exp(0.6 * normal(columns, 1))
    inputs[torch.randperm(columns, generator=generator, device=device)[:6]] *= 40
    weight = normal(rows, columns) * 0.02 * torch.exp(0.3 * normal(rows, 1)) * torch.exp(0.3 * normal(1, columns))
    column_scale = inputs.double().square().sum(1).sqrt().float()
    return weight.to(dtype), inputs, column_scale


def activations_like(tokens: int, columns: int, dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    """Tokens [T, C] whose channels differ in size, six of them huge."""
    generator = torch.Generator(device).manual_seed(seed)
    size = torch.exp(0.6 * torch.randn(columns, generator=generator, device=device))
    size[torch.randperm(columns, generator=generator, device=device)[:6]] *= 40
    return (torch.randn(tokens, columns, generator=generator, device=device) * size).to(dtype)
