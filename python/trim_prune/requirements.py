"""What the engine needs beyond trim_kernels, checked before anything else is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

# Import names; datasets and gguf are asked for only where they are used.
PACKAGES = (
    "accelerate",
    "huggingface_hub",
    "psutil",
    "pydantic",
    "rich",
    "safetensors",
    "tokenizers",
    "transformers",
    "typer",
    "yaml",
)


def require(packages: Iterable[str]) -> None:
    """Raise a ModuleNotFoundError that names every missing package and the one command that installs them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(
            f"trim_prune needs {', '.join(missing)}: pip install 'trim-kernels[prune]'", name=missing[0]
        )


require(PACKAGES)
