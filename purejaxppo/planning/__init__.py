"""Exact dynamic programming on a `TabularModel`.

Two things that are easily mixed up are named apart here. A *value* is discounted and knows no time limit: it is what
PPO's critic estimates, since a time limit does not end its sum. A *return* is not discounted and ends at the time
limit (the `horizon`): it is what the mean return of episodes estimates.
"""

from purejaxppo.planning.model import HORIZON, TabularModel, reachable
from purejaxppo.planning.regularised import SoftSolution, kl_to_reference, regularised_value, soft_values
from purejaxppo.planning.values import (
    MAX_SWEEPS,
    SOLVED_DENSELY,
    EpisodeReturn,
    Solution,
    expected_return,
    optimal_return,
    policy_evaluation,
    value_iteration,
)

__all__ = [
    "HORIZON",
    "MAX_SWEEPS",
    "SOLVED_DENSELY",
    "EpisodeReturn",
    "SoftSolution",
    "Solution",
    "TabularModel",
    "expected_return",
    "kl_to_reference",
    "optimal_return",
    "policy_evaluation",
    "reachable",
    "regularised_value",
    "soft_values",
    "value_iteration",
]
