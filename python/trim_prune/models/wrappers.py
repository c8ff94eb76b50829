"""See through what others put around a model or its modules: torch.compile, and the adapters of PEFT."""

from __future__ import annotations

from collections.abc import Iterator

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
    for name in (COMPILED, ADAPTED):
        inner = module._modules.get(name)
        if inner is not None:
            return unwrap_module(inner)
    return module


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


def has_adapters(model: nn.Module) -> bool:
    """Whether a module of the model has an adapter beside it."""
    return any(ADAPTED in module._modules for module in model.modules())


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have unwrapped."""
    state: dict[str, Tensor] = model.state_dict()
    adapters = [name for name, module in model.named_modules() if ADAPTED in module._modules]
    for adapter in adapters:
        state = {
            key: value
            for key, value in state.items()
            if not key.startswith(f"{adapter}.") or key.startswith(f"{adapter}.{ADAPTED}.")
        }
    return {key.replace(f"{COMPILED}.", "").replace(f".{ADAPTED}.", "."): value for key, value in state.items()}
