"""The losses of learning without labels, against a few lines of numpy."""

import numpy as np
import pytest
import torch

from glimpse.geometry import CellGrid
from glimpse.learning.contrastive import contrastive_loss
from glimpse.learning.distillation import Teacher, distillation_loss
from glimpse.learning.masked import hidden_pixels, local_statistics, masked_loss, random_masks
from glimpse.learning.vicreg import Weights, vicreg_loss

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(2, 5, 3))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(array)).double() for array in arrays]


def test_contrastive() -> None:
    z = np.concatenate([FIRST, SECOND])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i in range(10):
        alike = np.exp(z @ z[i] / 0.3)
        losses.append(-np.log(alike[(i + 5) % 10] / (alike.sum() - alike[i])))
    assert float(contrastive_loss(*tensors(FIRST, SECOND), 0.3)) == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_vicreg(weights: tuple[float, float, float]) -> None:
    first = FIRST * [0.2, 1.0, 3.0]  # one number varies too little
    expected = weights[0] * np.mean((first - SECOND) ** 2)
    for z in (first, SECOND):
        expected += weights[1] * np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2
        covariance = np.cov(z.T)
        expected += weights[2] * sum(covariance[j, k] ** 2 for j in range(3) for k in range(3) if j != k) / 3
    assert float(vicreg_loss(*tensors(first, SECOND), Weights(*weights))) == pytest.approx(expected)


def test_distillation_and_that_the_teacher_gets_no_gradient() -> None:
    student, teacher, centre = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4)), RNG.normal(size=4)

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    p, q = softmax(student / 0.1), softmax((teacher - centre) / 0.04)
    expected = np.mean([-(q[(i + 3) % 6] * np.log(p[i])).sum() for i in range(6)])
    ours, theirs, mean = tensors(student, teacher, centre)
    ours.requires_grad_(), theirs.requires_grad_()
    loss = distillation_loss(ours, theirs, mean, (0.1, 0.04))
    assert float(loss.detach()) == pytest.approx(expected)
    loss.backward()
    assert theirs.grad is None and ours.grad is not None


def test_a_teacher_follows_slowly() -> None:
    student = torch.nn.BatchNorm1d(1)
    teacher = Teacher([student], 0.75, 3)
    with torch.no_grad():
        student.weight.fill_(3.0), student.running_mean.fill_(7.0)  # type: ignore[union-attr, operator]
    expected = 1.0
    for _ in range(4):
        teacher.follow([student])
        expected = 0.75 * expected + 0.25 * 3.0
        assert float(teacher.parts[0].weight) == pytest.approx(expected, rel=1e-5)
    assert float(teacher.parts[0].running_mean) == 7.0  # buffers are copied
    assert not any(one.requires_grad for one in teacher.parameters())


def test_masked() -> None:
    predicted, true = RNG.normal(size=(2, 2, 3, 4, 4))
    masks = RNG.random((2, 4, 4)) < 0.4
    squares = [(predicted[b, :, y, x] - true[b, :, y, x]) ** 2 for b, y, x in np.argwhere(masks)]
    loss = masked_loss(*tensors(predicted, true), torch.from_numpy(masks))
    assert float(loss) == pytest.approx(np.mean(squares))


@pytest.mark.parametrize(("size", "side"), [((16,), (8,)), ((16, 8), (8, 4)), ((4, 8, 8), (2, 8, 4))])
def test_local_statistics(size: tuple[int, ...], side: tuple[int, ...]) -> None:
    image = RNG.integers(0, 256, (2, *size))
    grid = CellGrid(size, side)
    found = local_statistics(torch.from_numpy(image)[None], grid)[0].double().numpy()
    pixels = image / 127.5
    assert found.shape[1:] == grid.cells
    for cell in np.ndindex(*grid.cells):
        inside = tuple(slice(c * s, (c + 1) * s) for c, s in zip(cell, side, strict=True))
        for channel in range(2):
            expected = [pixels[channel][inside].mean(), pixels[channel][inside].std()]
            for step in (1, 2, 4):
                changes = []
                for axis, count in enumerate(size):
                    if count > step:
                        further = np.minimum(np.arange(count) + step, count - 1)
                        changes.append((np.take(pixels[channel], further, axis) - pixels[channel])[inside])
                expected += [np.sqrt((change**2).mean()) for change in changes]
                expected += [(changes[i] * changes[j]).mean() for i in range(len(changes)) for j in range(i)]
            np.testing.assert_allclose(found[channel::2][(slice(None), *cell)], expected, atol=2e-3)


def test_masks_are_whole_patches_of_the_asked_for_share() -> None:
    grid = CellGrid((40, 24), (8, 8))  # 5 x 3 cells, 3 x 2 patches of 2 x 2 cells
    masks = random_masks(200, grid, 2, 0.5, torch.Generator().manual_seed(0)).numpy()
    corners = masks[:, ::2, ::2]
    assert masks.shape == (200, 5, 3) and (corners.sum((1, 2)) == 3).all()
    assert np.array_equal(masks, corners.repeat(2, 1).repeat(2, 2)[:, :5, :3])
    assert len({mask.tobytes() for mask in corners}) == 20  # all choices of 3 of 6
    whole = random_masks(9, grid, 9, 0.999, torch.Generator().manual_seed(0))  # never all
    assert (~whole).flatten(1).any(1).all() and whole.flatten(1).any(1).all()


def test_hidden_pixels_have_the_mean_of_those_that_are_shown() -> None:
    image = RNG.random((1, 2, 6, 8))  # cells of 4 x 4 reach one pixel beyond above and below
    masks = np.array([[[True, False], [False, False]]])
    found = hidden_pixels(torch.from_numpy(image), torch.from_numpy(masks), CellGrid((6, 8), (4, 4))).numpy()
    hidden = np.zeros((6, 8), bool)
    hidden[:3, :4] = True
    for channel in range(2):
        np.testing.assert_allclose(found[0, channel][hidden], image[0, channel][~hidden].mean())
        np.testing.assert_array_equal(found[0, channel][~hidden], image[0, channel][~hidden])
