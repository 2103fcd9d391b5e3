"""What training and evaluation need of an environment. Environments written from scratch can be used, too.

A `gymnasium.Env` need not be a `GlimpseEnv`. It needs

- the spaces of `glimpse.spaces`: `observation_space(channels, views)` and `ActionLayout(...).dict_space()` (or
  `box_space()`, with the layout in its attribute `layout`);
- `task`: a `glimpse.tasks.Task`;
- `cases`: a sequence of objects with `id`, `patient` and `target`;
- `max_glimpses`: the budget of an episode;
- the reset options `case` (an index into `cases`) and `max_glimpses` (this episode's budget), and the infos, rewards
  and rules of `GlimpseEnv`. `glimpse.envs.check` checks them.

It may also have `views` (a `glimpse.views.Views`), with cases that have sources. If it does, and no wrapper changes its
observations, pretraining, warm-up and all readers read glimpses directly from the sources. Otherwise
`glimpse.contract.stepped_sources` reads the glimpses for pretraining and warm-up one by one through `reset` and `step`,
readers step the environment, and the full scan is left out. Before a training, 12 of its cases are asked for their
`extents`, which have to go from wide to fine and to be as wide as the cells of the overview lie apart, or wider.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import gymnasium

from glimpse.cohort import Case
from glimpse.errors import UserError
from glimpse.sources import ImageSource
from glimpse.spaces import OBSERVATION_KEYS, ActionLayout
from glimpse.tasks import Task
from glimpse.views import Views

_OF_A_CASE = ("id", "patient", "target")


class ProtocolError(UserError, TypeError):
    """An environment lacks something that training and evaluation need; the message lists all that is missing."""


@dataclass(frozen=True, eq=False)
class EnvContract:
    """The parts of an environment that training and evaluation use.

    Attributes:
        observation_space: the environment's space of observations.
        layout: the layout of its actions.
        task: the task whose targets are to be predicted.
        cases: all cases of the environment. Where `views` is None, they need not have sources.
        max_glimpses: budget of an episode.
        views: the sizes at which the cases' sources can be read; None where pixels are reached through `step` only.
    """

    observation_space: gymnasium.spaces.Dict
    layout: ActionLayout
    task: Task
    cases: Sequence[Case]
    max_glimpses: int
    views: Views | None


def contract_of(env: gymnasium.Env[Any, Any]) -> EnvContract:
    """Finds the parts of an environment that are needed, also through its wrappers.

    Raises:
        ProtocolError: a part is missing or of the wrong kind; the message lists all of them.
    """
    layout = _layout(env)
    problems = [*_space_problems(env, layout), *_attribute_problems(env)]
    if problems or layout is None:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise ProtocolError(
            f"{type(env.unwrapped).__name__} lacks what training needs of an environment:{listed}\n"
            "glimpse.contract.protocol lists all of it, and glimpse.envs.check(env) checks how it behaves."
        )
    cases, views = _attribute(env, "cases"), _attribute(env, "views")
    sourced = isinstance(views, Views) and isinstance(getattr(cases[0], "source", None), ImageSource)
    readable = sourced and not _shows_otherwise(env)
    return EnvContract(
        observation_space=env.observation_space,  # type: ignore[arg-type]
        layout=layout,
        task=_attribute(env, "task"),
        cases=cases,
        max_glimpses=int(_attribute(env, "max_glimpses")),
        views=views if readable else None,
    )


def _attribute(env: gymnasium.Env[Any, Any], name: str) -> Any:
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _shows_otherwise(env: gymnasium.Env[Any, Any]) -> bool:
    """Returns whether a wrapper changes observations, so that a policy would see other pixels than the sources have."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.ObservationWrapper):
            return True
        env = env.env
    return False


def _layout(env: gymnasium.Env[Any, Any]) -> ActionLayout | None:
    given, space = _attribute(env, "layout"), env.action_space
    if isinstance(given, ActionLayout):
        return given
    try:
        return ActionLayout.from_space(space) if isinstance(space, gymnasium.spaces.Dict) else None
    except ValueError:
        return None


def _space_problems(env: gymnasium.Env[Any, Any], layout: ActionLayout | None) -> list[str]:
    problems, space = [], env.observation_space
    if not isinstance(space, gymnasium.spaces.Dict) or set(space.spaces) != set(OBSERVATION_KEYS):
        problems.append(f"observation_space as Dict({', '.join(OBSERVATION_KEYS)}), not {space}")
    if layout is None or env.action_space not in (layout.dict_space(), layout.box_space()):
        problems.append(
            "action_space as ActionLayout(...).dict_space() (or box_space(), with the layout as `layout`), "
            f"not {env.action_space}"
        )
    return problems


def _attribute_problems(env: gymnasium.Env[Any, Any]) -> list[str]:
    problems = []
    task, cases, budget = (_attribute(env, name) for name in ("task", "cases", "max_glimpses"))
    if not isinstance(task, Task):
        problems.append(f"`task`, a glimpse.tasks.Task, not {task!r}")
    if not isinstance(cases, Sequence) or not len(cases):
        problems.append(f"`cases`, a sequence of at least one case, not {cases!r}")
    elif missing := [name for name in _OF_A_CASE if not hasattr(cases[0], name)]:
        problems.append(f"`cases` with {', '.join(_OF_A_CASE)}; {', '.join(missing)} missing in {cases[0]!r}")
    if not isinstance(budget, Integral) or int(budget) < 0:
        problems.append(f"`max_glimpses`, a number from 0 on, not {budget!r}")
    return problems
