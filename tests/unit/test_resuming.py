"""What can be changed of a run that goes on."""

import pytest

from glimpse.errors import SettingsError
from glimpse.settings.resuming import resumed

SAVED = {"seed": 3, "threads": 1, "joint": {"updates": 9}, "report": {"readers": ["grid"], "lanes": 20}}
GIVEN = {"seed": 0, "threads": 2, "joint": {"updates": 40}, "report": {"readers": ["random"], "lanes": 20}}


def test_what_can_take_effect_does() -> None:
    found = resumed(SAVED, GIVEN, ["resume=a", "joint.updates=40", "report.readers=[random]"])
    assert found == {**SAVED, "joint": {"updates": 40}, "report": {"readers": ["random"], "lanes": 20}}
    assert SAVED["joint"] == {"updates": 9}


@pytest.mark.parametrize(
    "typed", ["seed=4", "agent=reinforce", "+joint.updates=4", "env.make.glimpse_size=3", "~report"]
)
def test_what_cannot_is_refused(typed: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot be changed beside resume=.*joint\.updates"):
        resumed(SAVED, GIVEN, ["resume=a", typed])
