"""trim_prune: walks a language model and prunes it, asking trim_kernels which weights go."""

from trim_kernels import __version__

from . import requirements as requirements
from .api import prune
from .budgets.layers import LayerRequest, register_layer_budget
from .budgets.rows import RowDecision, RowRequest, register_row_budget
from .errors import TrimPruneError
from .evaluation.perplexity import Perplexity, evaluate, perplexity
from .events import Event
from .models.load import load_model
from .options import AlpsOptions, SwapsOptions, TrimOptions
from .recipe import Recipe
from .results import LinearResult, PruneResult, Sparsity
from .scores import Importance, register_score
from .solvers import SolveRequest, register_solver

__all__ = [
    "AlpsOptions",
    "Event",
    "Importance",
    "LayerRequest",
    "LinearResult",
    "Perplexity",
    "PruneResult",
    "Recipe",
    "RowDecision",
    "RowRequest",
    "SolveRequest",
    "Sparsity",
    "SwapsOptions",
    "TrimOptions",
    "TrimPruneError",
    "__version__",
    "evaluate",
    "load_model",
    "perplexity",
    "prune",
    "register_layer_budget",
    "register_row_budget",
    "register_score",
    "register_solver",
]
