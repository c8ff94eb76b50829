"""The backward pass of the loss of one sequence, one block at a time.

Memory: the model, the hidden states between the blocks and the logits of one sequence, the activations of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from .errors import TrimPruneError
from .models.capture import Capture
from .models.device import on_device
from .models.discover import Linear
from .tiles import row_tiles

Watch = Callable[[Sequence[Linear]], AbstractContextManager[None]]


@torch.no_grad()
def backward(capture: Capture, token_ids: Tensor, device: torch.device, watch: Watch) -> None:
    """Differentiate the next-token cross-entropy, summed over the tokens of one sequence (int64 [1, tokens]).

    The mean would have gradients too small for float16. ``watch(linears)``: the context in which the block of these
    linears runs once more and its gradients are made. ``device``: where each block computes; a block lies there for the
    time of its turn only.
    """
    if token_ids.shape[1] < 2:
        raise TrimPruneError("a sequence of fewer than 2 tokens predicts nothing", got=f"{token_ids.shape[1]} tokens")
    _begin(device)
    captured = capture(token_ids)
    home, turns = captured.hidden.device, list(zip(capture.blocks, captured.calls, strict=True))
    hidden = [captured.hidden]
    for block, call in turns:
        with on_device(block, device):
            hidden.append(call.run(block.module, hidden[-1].to(device), device).to(home))
    gradient = _loss_gradient(capture, token_ids, hidden.pop())
    for block, call in reversed(turns):
        inputs = hidden.pop().to(device).detach().requires_grad_()
        with on_device(block, device), watch(block.linears), torch.enable_grad():
            torch.autograd.backward(call.run(block.module, inputs, device), gradient.to(device))
        assert inputs.grad is not None
        gradient = inputs.grad


def _begin(device: torch.device) -> None:
    """Autograd works in a thread of its own on a GPU, and cuBLAS warns where it is the first to use the GPU there."""
    if device.type == "cuda":
        with torch.enable_grad():
            one = torch.ones((), device=device, requires_grad=True)
            (one * one).backward()  # type: ignore[no-untyped-call]


def _loss_gradient(capture: Capture, token_ids: Tensor, hidden: Tensor) -> Tensor:
    """The gradient with respect to what the last block returns, ``hidden``."""
    hidden = hidden.detach().requires_grad_()
    with torch.enable_grad():
        logits = capture.logits(token_ids, hidden)
    slope = torch.zeros_like(logits)
    predicting, slopes, targets = logits[0, :-1], slope[0, :-1], token_ids[0, 1:].to(logits.device)
    # By hand, rows at a time: autograd would keep several float32 copies of the logits.
    for rows in row_tiles(predicting):
        probabilities, target = predicting[rows].float().softmax(dim=1), targets[rows, None]
        slopes[rows] = probabilities.scatter_add_(1, target, -torch.ones_like(target, dtype=torch.float32))
    (gradient,) = torch.autograd.grad(logits, hidden, slope)
    return gradient


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter has or requires a gradient inside this context; afterwards each is as it was."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False).grad = None
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required).grad = gradient
