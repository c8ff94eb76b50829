"""Capture what a model hands to each of its blocks, and replay it.

The blocks do not run during the capture of the calibration batches: each is replaced by a pass-through that
records its call and returns the hidden states in the form (tensor, tuple or ModelOutput) that a tiny real
forward showed. What that forward also shows is whether this is allowed: no block's other arguments may depend
on the output of an earlier block, and nothing may happen to the hidden states between two blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NOT_FINITE_FIX, TrimPruneError
from .device import on_device
from .discover import Block

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Call:
    """The arguments of one block for one batch, except the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, block: nn.Module, hidden: Tensor, device: torch.device) -> Tensor:
        """Run a block's module with these arguments; returns its hidden states [sequences, tokens, hidden]."""
        args, kwargs = _move(self.args, device), _move(self.kwargs, device)
        if "hidden_states" in kwargs:
            output = block(*args, **(kwargs | {"hidden_states": hidden}))
        else:
            output = block(hidden, *args[1:], **kwargs)
        return _hidden(output)

    def to(self, device: torch.device, dtype: torch.dtype) -> Call:
        """The same arguments elsewhere; floating-point tensors, such as masks and rotary tables, in another type."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

        return Call(_map(moved, self.args), _map(moved, self.kwargs))


@dataclass(frozen=True)
class Captured:
    """One batch: the hidden states that enter the first block, and the call of every block."""

    hidden: Tensor
    calls: tuple[Call, ...]


class Capture:
    """Captures the block inputs of batches of token ids; made once per model."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        example: Tensor,
        on_block: Callable[[Block], None] = lambda _: None,
    ) -> None:
        """``example`` is any batch of token ids: its first tokens serve for the probe.

        ``on_block``: called with each block in turn while its weights can be read, as the probe comes to it.
        """
        self.model, self.blocks, self._on_block = model, blocks, on_block
        self._outputs: list[Any] = []
        self._probe(example[:1, :PROBE_TOKENS])

    def __call__(self, token_ids: Tensor, previous: Captured | None = None) -> Captured:
        """Capture one batch [sequences, tokens]; what equals the previous batch shares its memory."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def passthrough(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                calls.append((args, kwargs))
                if index == len(self.blocks) - 1:
                    raise _CaptureEndError
                return _rewrap(self._outputs[index], _hidden_argument(args, kwargs))

            return forward

        with forwards(self.blocks, passthrough), suppress(_CaptureEndError):
            self.model(input_ids=token_ids.to(_device(self.model)), use_cache=False)
        hidden = _hidden_argument(*calls[0])
        stripped = [_strip(args, kwargs) for args, kwargs in calls]
        if previous is not None:
            stripped = [_share(new, old) for new, old in zip(stripped, previous.calls, strict=True)]
        return Captured(hidden, tuple(stripped))

    def logits(self, token_ids: Tensor, hidden: Tensor) -> Tensor:
        """The logits [sequences, tokens, vocabulary] that the model gives when its last block returns ``hidden``.

        ``token_ids`` [sequences, tokens], ``hidden`` [sequences, tokens, hidden]. No block runs; what follows them is
        the model's own. Where gradients are enabled, they flow from the logits to ``hidden``.
        """

        def passthrough(index: int) -> Callable[..., Any]:
            return lambda *_, **__: _rewrap(self._outputs[index], hidden.to(_device(self.model)))

        with forwards(self.blocks, passthrough):
            output = self.model(input_ids=token_ids.to(_device(self.model)), use_cache=False)
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise TrimPruneError(
                "the model predicts no tokens",
                expected="logits among its outputs",
                got=type(output).__name__,
                fix="give the model with its language-model head",
            )
        return logits

    def _probe(self, token_ids: Tensor) -> None:
        calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        outputs: dict[int, Any] = {}

        def recorder(index: int) -> Callable[..., Any]:
            original = self.blocks[index].module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                if index in calls or len(calls) != index:
                    raise _unsupported("the blocks do not run one after the other, once each", index)
                calls[index] = (args, kwargs)
                with on_device(self.blocks[index]):
                    self._on_block(self.blocks[index])
                    outputs[index] = original(*args, **kwargs)
                return outputs[index]

            return forward

        with forwards(self.blocks, recorder):
            self.model(input_ids=token_ids.to(_device(self.model)), use_cache=False)
        if len(calls) != len(self.blocks):
            raise _unsupported("some blocks do not run at all", len(calls))
        # First, since NaN equals nothing: the comparison would blame the architecture.
        for index in range(len(self.blocks)):
            refuse_not_finite(_hidden_argument(*calls[index]), index)
        for index in range(1, len(self.blocks)):
            if not _equal(_hidden_argument(*calls[index]), _hidden(outputs[index - 1])):
                raise _unsupported("its hidden states are not the output of the block before it", index)
        self._outputs = [outputs[index] for index in range(len(self.blocks))]
        replayed = self(token_ids)
        for index, call in enumerate(replayed.calls):
            true_call = _strip(*calls[index])
            if not (_equal(call.args, true_call.args) and _equal(call.kwargs, true_call.kwargs)):
                raise _unsupported("its arguments depend on the outputs of earlier blocks", index)


class _CaptureEndError(Exception):
    """Ends the model's forward at the last block: its final norm and head are not needed."""


def _unsupported(what: str, index: int) -> TrimPruneError:
    return TrimPruneError(
        f"this architecture cannot be pruned block by block: {what}",
        where=f"block {index}",
        expected="blocks that run in order, once each, each on the output of the one before",
    )


def refuse_not_finite(hidden: Tensor, index: int) -> None:
    """``hidden`` enters the block of that index: the one before it, or the embedding, made it."""
    if not torch.isfinite(hidden).all():
        raise TrimPruneError(
            "NaN or infinity in the hidden states of the model",
            where=f"the output of block {index - 1}" if index else "the input of block 0",
            fix=NOT_FINITE_FIX,
        )


@contextmanager
def forwards(blocks: Sequence[Block], make: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
    """Each block runs, inside this context, what is made for its number in place of its forward."""
    replaced = [(block.module, block.module.__dict__.get("forward")) for block in blocks]
    try:
        for block in blocks:
            block.module.forward = make(block.index)
        yield
    finally:
        for module, previous in replaced:
            module.__dict__.pop("forward", None)
            if previous is not None:
                module.forward = previous


def _device(model: nn.Module) -> torch.device:
    # Blocks may be on a disk, and the rest never is.
    return next(parameter.device for parameter in model.parameters() if not parameter.is_meta)


def _hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0] if args else None
    if not isinstance(hidden, Tensor):
        raise TrimPruneError(
            "a block is not called with its hidden states",
            expected="a tensor as first argument or as hidden_states",
            got=f"{len(args)} positional arguments and the keywords {', '.join(kwargs) or 'none'}",
        )
    return hidden


def _strip(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if "hidden_states" in kwargs:
        return Call(args, kwargs | {"hidden_states": None})
    return Call((None, *args[1:]), kwargs)


def _hidden(output: Any) -> Tensor:
    # Not isinstance(ModelOutput): importing transformers takes a second, and --help does not need it.
    entries = output.to_tuple() if hasattr(output, "to_tuple") else output
    hidden = entries[0] if isinstance(entries, (tuple, list)) and entries else entries
    if not isinstance(hidden, Tensor):
        raise TrimPruneError("a block does not return its hidden states first", got=type(output).__name__)
    return hidden


def _rewrap(example: Any, hidden: Tensor) -> Any:
    """The hidden states in the form of an example output; its other entries become None."""
    if isinstance(example, Tensor):
        return hidden
    if isinstance(example, (tuple, list)):
        entries: list[Any] = [hidden, *[None] * (len(example) - 1)]
        return type(example)(*entries) if hasattr(example, "_fields") else type(example)(entries)
    return type(example)(**{next(iter(example.keys())): hidden})


def _move(value: Any, device: torch.device) -> Any:
    return _map(lambda tensor: tensor.to(device), value)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(function, item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map(function, item) for item in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(lambda tensor: found.append(tensor) or tensor, value)  # type: ignore[func-returns-value]
    return found


def _equal(left: Any, right: Any) -> bool:
    """Whether the tensors inside two values are equal, one by one."""
    a, b = _tensors(left), _tensors(right)
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _share(new: Call, old: Call) -> Call:
    """The new call, holding the old call's tensors where they are equal (masks, rotary tables)."""
    known = _tensors((old.args, old.kwargs))

    def reuse(tensor: Tensor) -> Tensor:
        for candidate in known:
            if candidate is tensor or (
                candidate.shape == tensor.shape
                and candidate.dtype == tensor.dtype
                and candidate.device == tensor.device
                and torch.equal(candidate, tensor)
            ):
                return candidate
        return tensor

    return Call(_map(reuse, new.args), _map(reuse, new.kwargs))
