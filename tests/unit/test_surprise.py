"""How much the predictions of every task tell that others did not, against values worked by hand."""

import torch

from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Survival


def test_surprise_by_hand() -> None:
    """Divergences of what predictions say: of classes, labels, a quantity, intervals of time, and several of them."""
    own, before = torch.tensor([[2.0, 0.0], [0.5, -1.0]]), torch.tensor([[0.0, 1.0]])
    p, q = own.softmax(-1), before.softmax(-1)
    classes, labels, age = Classification(2), MultiLabel(["a", "b"]), Regression(50, 10)
    torch.testing.assert_close(classes.surprise(own, before), (p * (p / q).log()).sum(-1))
    yes, no = own.sigmoid(), before.sigmoid()
    each = yes * (yes / no).log() + (1 - yes) * ((1 - yes) / (1 - no)).log()
    torch.testing.assert_close(labels.surprise(own, before), each.mean(-1))
    torch.testing.assert_close(age.surprise(own[:, :1], before[:, :1]), torch.tensor([2.0, 0.125]))
    several = MultiTask({"tumour": classes, "age": age})
    both, earlier = torch.cat([own, own[:, :1]], 1), torch.cat([before, before[:, :1]], 1)
    expected = (classes.surprise(own, before) + torch.tensor([2.0, 0.125])) / 2
    torch.testing.assert_close(several.surprise(both, earlier), expected)
    time = Survival(edges=[1, 2], baseline=[0.2, 0.4], blind=1.0)

    def chances(outputs: torch.Tensor) -> torch.Tensor:  # of an event in each interval, or later
        hazard = (outputs + torch.tensor([0.2, 0.4]).logit()).sigmoid()
        alive = (1 - hazard).cumprod(-1)
        begun = torch.cat([torch.ones(len(outputs), 1), alive[:, :1]], 1)
        return torch.cat([hazard * begun, alive[:, 1:]], 1)

    first, second = chances(own), chances(before)
    torch.testing.assert_close(time.surprise(own, before), (first * (first / second).log()).sum(-1))
    for task, outputs in ((classes, own), (labels, own), (age, own[:, :1]), (time, own), (several, both)):
        assert torch.equal(task.surprise(outputs, outputs), torch.zeros(2))
