"""A score: how important is each weight?"""

import torch

from trim_prune import Importance, ScoreRequest, register_score


@register_score("example-root", needs=["column_energy"])
def root(request: ScoreRequest) -> Importance:
    """abs(w) * norm(x) ** 0.5: between magnitude and Wanda."""
    norm = (request.statistics.column_energy / request.statistics.sequences).sqrt()
    return Importance(column_scale=norm.sqrt().to(torch.float32))
