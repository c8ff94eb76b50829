"""trim_prune: walks a language model and prunes it, asking trim_kernels which weights go."""

from trim_kernels import __version__

from . import requirements as requirements
from .api import prune
from .budgets.layers import LayerRequest, register_layer_budget
from .budgets.rows import RowDecision, RowRequest, register_row_budget
from .callbacks import Callback, register_callback
from .describe import Description, describe
from .errors import TrimPruneError
from .estimate.plan import Forecast, plan
from .evaluation.perplexity import Perplexity, evaluate, perplexity
from .events import Event
from .loading import load
from .models.load import load_model
from .one_linear import count_linear, divide_linears, score_linear, solve_linear
from .options import (
    AlphaPruningOptions,
    AlpsOptions,
    DlpOptions,
    OptimalOptions,
    OwlOptions,
    RiaOptions,
    SparseGPTOptions,
    SwapsOptions,
    TableRule,
    TrimOptions,
)
from .recipe import Recipe
from .results import LinearResult, PruneResult, Sparsity
from .scores import Importance, ScoreRequest, register_score
from .solvers import SolveRequest, register_solver
from .structured import StructuredRecipe, StructuredResult
from .training import keep_zeros

__all__ = [
    "AlphaPruningOptions",
    "AlpsOptions",
    "Callback",
    "Description",
    "DlpOptions",
    "Event",
    "Forecast",
    "Importance",
    "LayerRequest",
    "LinearResult",
    "OptimalOptions",
    "OwlOptions",
    "Perplexity",
    "PruneResult",
    "Recipe",
    "RiaOptions",
    "RowDecision",
    "RowRequest",
    "ScoreRequest",
    "SolveRequest",
    "SparseGPTOptions",
    "Sparsity",
    "StructuredRecipe",
    "StructuredResult",
    "SwapsOptions",
    "TableRule",
    "TrimOptions",
    "TrimPruneError",
    "__version__",
    "count_linear",
    "describe",
    "divide_linears",
    "evaluate",
    "keep_zeros",
    "load",
    "load_model",
    "perplexity",
    "plan",
    "prune",
    "register_callback",
    "register_layer_budget",
    "register_row_budget",
    "register_score",
    "register_solver",
    "score_linear",
    "solve_linear",
]
