"""The running average of parameters, against the formula worked by hand."""

import pytest
import torch
from torch import nn

from glimpse.learning.averaging import Average
from glimpse.runs.checkpoints import Checkpoint


def module(value: float) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_it_follows_the_formula() -> None:
    line = module(0.0)
    average = Average(line, 0.25)
    seen = []
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(line.weight, value)
        average.update()
        seen.append(average.state["weight"].item())
    # d = min(1/4, 1/10), min(1/4, 2/11), min(1/4, 3/12)
    first = 0.9 * 1
    second = 2 / 11 * first + 9 / 11 * 2
    assert seen == pytest.approx([first, second, 0.25 * second + 0.75 * 3])
    assert line.weight.item() == 3.0


def test_it_stands_in_for_the_module_inside_only() -> None:
    line = module(0.0)
    average = Average(line, 0.9)
    nn.init.constant_(line.weight, 1.0)
    average.update()
    with average.applied():
        assert line.weight.item() == pytest.approx(0.9)
    assert line.weight.item() == 1.0
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        raise RuntimeError("inside")
    assert line.weight.item() == 1.0


def test_without_decay_it_is_the_module() -> None:
    line = module(0.0)
    average = Average(line, 0.0)
    nn.init.constant_(line.weight, 5.0)
    average.update()
    assert average.state["weight"].item() == 5.0
    with pytest.raises(ValueError, match="below 1"):
        Average(line, 1.0)


def test_it_goes_on_from_a_checkpoint() -> None:
    line = module(2.0)
    average, checkpoint = Average(line, 0.9), Checkpoint()
    for value in (1.0, 4.0):
        nn.init.constant_(line.weight, value)
        average.update()
    average.save(checkpoint)
    again = Average(module(0.0), 0.9)
    again.restore(checkpoint)
    assert torch.equal(again.state["weight"], average.state["weight"])
    assert again.updates == 2


def test_numbers_that_are_not_floating_are_taken_as_they_are() -> None:
    norm = nn.BatchNorm1d(1)
    average = Average(norm, 0.9)
    norm(torch.randn(4, 1))
    average.update()
    assert average.state["num_batches_tracked"].item() == 1
