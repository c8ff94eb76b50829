"""See through what others put around a model or its modules: torch.compile, and the adapters of PEFT."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

COMPILED, ADAPTED = "_orig_mod", "base_layer"
"""Under these names torch.compile and PEFT keep the module that they wrap."""


def unwrap(model: nn.Module) -> nn.Module:
    """The model within torch.compile and PEFT, with its adapters in place; itself if nothing is around it."""
    inner = unwrap_module(model)
    base = getattr(inner, "get_base_model", None)
    return unwrap(base()) if callable(base) and hasattr(inner, "peft_config") else inner


def unwrap_module(module: nn.Module) -> nn.Module:
    """What a compiled module runs; of a linear with an adapter, the linear."""
    inner = module._modules.get(ADAPTED if _has_adapter(module) else COMPILED)
    return module if inner is None else unwrap_module(inner)


def parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A module and all modules in it, once each, by the names that they would have unwrapped; adapters are left out."""
    seen: set[nn.Module] = set()

    def walk(wrapped: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        inner = unwrap_module(wrapped)
        if inner not in seen:
            seen.add(inner)
            yield path, inner
            for child, part in inner.named_children():
                yield from walk(part, f"{path}.{child}" if path else child)

    return walk(module, name)


def uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Compiled parts of the model run as they are written inside this context.

    They would neither call our pass-through blocks nor let products be watched.
    """
    compiled = any(COMPILED in module._modules or module._compiled_call_impl is not None for module in model.modules())
    # Only then, as this alone imports the compiler.
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def has_adapters(model: nn.Module) -> bool:
    """Whether a module of the model has an adapter beside it."""
    return any(_has_adapter(module) for module in model.modules())


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have unwrapped."""
    adapters = {name for name, module in model.named_modules() if _has_adapter(module)}
    named = {_plain_name(key, adapters): value for key, value in model.state_dict().items()}
    return {name: value for name, value in named.items() if name is not None}


def _plain_name(key: str, adapters: Set[str]) -> str | None:
    """A key of a state dict unwrapped; None for what belongs to one of the adapters at these paths."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        if ".".join(parts[:depth]) in adapters:
            if parts[depth] != ADAPTED:
                return None
            del parts[depth]
            break
    return ".".join(part for part in parts if part != COMPILED)


def _has_adapter(module: nn.Module) -> bool:
    """Whether it is a linear of PEFT's, around another one."""
    return ADAPTED in module._modules and hasattr(module, "adapter_layer_names")
