"""A baseline that answers from the overview alone."""

from typing import Any

from glimpse.agents.base import GlimpseAlgorithm


class Overview(GlimpseAlgorithm):
    """Supervised learning on overviews; it never looks closer, whatever the budget."""

    explores = False

    def __init__(self, policy: Any, env: Any, learning_rate: Any = 1e-3, **options: Any) -> None:
        super().__init__(policy, env, learning_rate, **{**options, "max_glimpses": 0})
