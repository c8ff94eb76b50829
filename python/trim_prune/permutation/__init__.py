"""Order the columns of linears so that the groups of a pattern keep more, where the model stays the same function."""

from .find import Folds, find_folds
from .fold import Fold, Move
from .groups import find_order, require_scipy
from .reorder import Reordered, reorder

__all__ = ["Fold", "Folds", "Move", "Reordered", "find_folds", "find_order", "reorder", "require_scipy"]
