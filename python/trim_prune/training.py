"""Training that keeps zeros: what is pruned is set back to zero after every step of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import TrimPruneError
from .formats.masks import Masks, count_bits, masks_of
from .models.discover import find_blocks

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""Parts of a parameter's name that wrappers (DDP, torch.compile, FSDP, checkpointing, adapters of PEFT) put in."""


class KeptZeros:
    """What :func:`keep_zeros` returns.

    Parameters are looked up by name each time, as wrappers and sharding replace them. Of each, a mask of one byte a
    weight is kept on its device: of a DTensor (FSDP2, tensor parallel), of the part that this rank has.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self.model, self.masks = model, masks
        self._names: dict[str, str] = {}
        self._pruned: dict[str, tuple[object, Tensor]] = {}

    @torch.no_grad()
    def apply(self) -> None:
        """Set what is pruned to zero; to be called after every step of the optimizer."""
        for name, parameter in self._parameters().items():
            local, pruned = self._local(name, parameter)
            local.masked_fill_(pruned, 0)

    @torch.no_grad()
    def stray(self) -> int:
        """How many weights are pruned and not zero, on all ranks of a sharded model, which all have to ask."""
        stray, sharded = 0, False
        for name, parameter in self._parameters().items():
            local, pruned = self._local(name, parameter)
            stray += int(torch.count_nonzero(local[pruned]))
            sharded = sharded or hasattr(parameter, "device_mesh")
        if sharded:
            total = torch.tensor(stray, device=local.device)
            torch.distributed.all_reduce(total)
            stray = int(total)
        return stray

    def check(self) -> float:
        """The share of the masked weights that is pruned; all ranks of a sharded model have to ask.

        Raises:
            TrimPruneError: something that is pruned is not zero, on any rank.
        """
        stray = self.stray()
        if stray:
            raise TrimPruneError(
                "pruned weights are not zero any more",
                got=f"{stray} weights",
                fix="call apply() after every step of the optimizer, or use the callback",
            )
        return 1 - sum(map(count_bits, self.masks.values())) / self.masks.weights

    def _parameters(self) -> dict[str, nn.Parameter]:
        found = {_plain(name): parameter for name, parameter in self.model.named_parameters()}
        for name in self.masks:
            if name not in self._names and (own := _name_in(found, name)) is not None:
                self._names[name] = own
        missing = [name for name in self.masks if name not in self._names]
        if missing:
            raise TrimPruneError(
                "the masks name weights that the model has not",
                got=", ".join(missing[:4]) + (", ..." if len(missing) > 4 else ""),
                fix="give the masks of this model; merge or unload adapters first; where transformers renames or joins "
                "the tensors of the files, leave masks out: zeros tell what is pruned",
            )
        return {name: found[self._names[name]] for name in self.masks}

    def _local(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """The part of a parameter that is here, and the mask of what is pruned in it."""
        self.masks.require_fit(name, parameter)
        mesh, placements = getattr(parameter, "device_mesh", None), getattr(parameter, "placements", None)
        sharded: Any = parameter
        local: Tensor = sharded.to_local() if mesh is not None else parameter.data
        layout = (mesh, placements, local.device)
        known = self._pruned.get(name)
        if known is None or known[0] != layout:
            known = (layout, self._of_part(name, mesh, placements, local.device))
            self._pruned[name] = known
        return local, known[1]

    def _of_part(self, name: str, mesh: Any, placements: Any, device: torch.device) -> Tensor:
        pruned = ~self.masks.kept(name).to(device)
        if mesh is None:
            return pruned
        from torch.distributed.tensor import distribute_tensor

        # Every rank has the whole mask, so none is sent.
        part: Tensor = distribute_tensor(pruned, mesh, placements, src_data_rank=None).to_local()
        return part


def keep_zeros(model: nn.Module, masks: Masks | Mapping[str, Tensor] | None = None) -> KeptZeros:
    """Keep pruned weights at zero through training::

        zeros = keep_zeros(model)
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            zeros.apply()
            optimizer.zero_grad()
        zeros.check()

    Training changes what is kept only; the masks stay as they are. Works with any optimizer, and with DDP, FSDP2 and
    other DTensors, torch.compile and activation checkpointing. Of a layer with an adapter (PEFT) it keeps the zeros of
    the layer itself; ``trim-prune merge-lora`` keeps them when the two are added. With the Trainer of transformers, use
    ``trim_prune.integrations.trainer.KeepZeros``.

    Args:
        model: in the state that it is trained in; if it is to be sharded without masks given, before that.
        masks: what stays, by weight name, in the model or in its files (of which those of the bare model lack a
            prefix): of :func:`trim_prune.formats.sources.open_masks`, or bool [R, C]; by default what is not zero in
            the linears of the blocks now.

    Raises:
        TrimPruneError: there are no masks, or they are no bools; later, if they do not fit the model.
    """
    if masks is None:
        masks = {
            _plain(linear.weight_name): (linear.whole.detach() != 0).cpu()
            for block in find_blocks(model)
            for linear in block.linears
        }
    if not masks:
        raise TrimPruneError("there are no masks to keep zeros by", fix="give masks, or a model with linears in blocks")
    return KeptZeros(model, masks if isinstance(masks, Masks) else masks_of(masks, "the masks"))


def _name_in(parameters: Mapping[str, nn.Parameter], name: str) -> str | None:
    """The name of the parameter that a mask is of: one may have a prefix that the other lacks."""
    if name in parameters:
        return name
    close = [own for own in parameters if own.endswith(f".{name}") or name.endswith(f".{own}")]
    return close[0] if len(close) == 1 else None


def _plain(name: str) -> str:
    """The name of a parameter in the model without wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
