"""Several processes that prune one model together: what each of them does, and how they tell one another."""

from .groups import groups_of, row_parts
from .launch import heed_others, is_first, may_tell, open_team, ranks_wanted
from .sums import OrderedSum
from .team import ALONE, Part, RankError, Team

__all__ = [
    "ALONE",
    "OrderedSum",
    "Part",
    "RankError",
    "Team",
    "groups_of",
    "heed_others",
    "is_first",
    "may_tell",
    "open_team",
    "ranks_wanted",
    "row_parts",
]
