"""Prunes by several processes, each a fork of this one, so that the packages are imported once.

Run by test_several.py with a file of jobs: for each the number of ranks, and the prunes that they make, one after the
other. Prints one line of JSON: for each job and rank the error that ended it, or what it returned.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import torch
import transformers
from tiny_models import make_model, make_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401 - imported before the forks

from trim_prune import TrimPruneError, prune
from trim_prune.digest import checksum
from trim_prune.report import page
from trim_prune.team import groups


def main(jobs: str) -> None:
    torch.set_num_threads(1)
    page.report_page = lambda run, derived: "not drawn"
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(json.dumps([several(job) for job in json.loads(Path(jobs).read_text())]))


def several(job):
    """What each rank tells."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [started(job, rank, port) for rank in range(job["ranks"])]
    told = []
    for process, pipe in pipes:
        with os.fdopen(pipe, "rb") as reading:
            told.append(json.loads(reading.read()))
        os.waitpid(process, 0)
    return told


def started(job, rank, port):
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    # What torchrun says to its processes.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["ranks"])}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | job.get("environment", {})
    try:
        groups.ROWS = job["rows"]
        told = [told_of(change(call, rank)) for call in job["prunes"]]
    except BaseException as error:
        told = repr(error)
    os.write(writing, json.dumps(told).encode())
    os._exit(0)


def change(call, rank):
    """The call of one rank, where the ranks differ."""
    recipe, largest = call.get("recipe_of_rank", {}), call.get("largest_of_rank", {})
    return call | {"recipe": call["recipe"] | recipe.get(str(rank), {}), "largest": largest.get(str(rank), 100)}


def small(model, largest):
    """A model in whose blocks more than so many sequences do not fit on the device."""

    def fail(_, arguments):
        if len(arguments[0]) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(fail)
    return model


def told_of(call):
    warnings = []
    try:
        model = call["model"] or small(make_model("llama"), call["largest"])
        tokenizer = None if call["model"] else make_tokenizer()
        text = call["text"] and [call["text"]]
        result = prune(model, call["recipe"], text, tokenizer=tokenizer, out=call["out"], on_event=warnings.append)
    except TrimPruneError as error:
        return {"error": str(error)}
    linears = [vars(linear) | {"seconds": 0, "shape": list(linear.shape)} for linear in result.linears]
    masks = checksum(result.masks[name] for name in sorted(result.masks))
    weights = checksum(tensor for _, tensor in sorted(result.model.state_dict().items()))
    events = sorted({event.kind for event in warnings})
    return {"linears": linears, "masks": masks, "weights": weights, "events": events}


if __name__ == "__main__":
    main(*sys.argv[1:])
