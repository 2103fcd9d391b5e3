"""The embedded slides' texture: quilted from real tissue; look-alikes agree with tumour in all but their forms."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from glimpse.networks import ConvEncoder, EfficientNetLite0
from glimpse.synthetic.slides import texture as texture_module
from glimpse.synthetic.slides.layout import FAT, FOCUS, LOOK_ALIKE, Layout, lay_out, polygon
from glimpse.synthetic.slides.likeness import BLOCK, matched
from glimpse.synthetic.slides.painting import Window, _apart, _focused, paint
from glimpse.synthetic.slides.quilting import DENSITY, Source, block_means, quilt, seam, turned
from glimpse.synthetic.slides.staining import _STAINS, SITES, Look
from glimpse.synthetic.slides.texture import SHEET, Sheets, Texture, sheets, sides, texture


@pytest.fixture(scope="module")
def small() -> Sheets:
    return sheets(0, *sides(1024))


def layout(seed: int, size: int, target: int) -> Layout:
    return lay_out(np.random.default_rng(seed), size, target, texture().labels, texture().islands)


# --- Quilting --------------------------------------------------------------------------------------------------------


def test_a_seam_is_the_cheapest_path() -> None:
    cost = np.array([[9, 1, 9, 9], [9, 9, 1, 9], [9, 9, 9, 1], [9, 0, 9, 1]], float)  # the 0 cannot be reached
    np.testing.assert_array_equal(seam(cost), [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]])


def test_means_of_blocks_by_hand() -> None:
    plane = np.kron(np.array([[1, 2], [3, 4]]), np.ones((8, 8))).astype(np.uint8)
    plane[0, 0] += 64
    np.testing.assert_array_equal(block_means(plane, 8), [[2, 2], [3, 4]])


def test_turns_are_the_eight_of_a_square() -> None:
    square = np.arange(9).reshape(3, 3)
    assert len({turned(square, turn).tobytes() for turn in range(8)}) == 8
    np.testing.assert_array_equal(turned(square, 4), square[:, ::-1])


def test_patches_lie_in_their_mask() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 10:50] = True
    (corners,) = Source.of([np.zeros((240, 240, 3), np.uint8)], [mask], 64).corners
    assert corners.min(0).tolist() == [20, 10] and corners.max(0).tolist() == [40 - 16, 50 - 16]


def test_a_sheet_continues_itself_on_all_sides(small: Sheets) -> None:
    for sheet in (small.ground, small.tumour, small.look_alike):
        image = sheet.astype(float)
        assert sheet.min(-1).max() > 150 and (sheet.max(-1) > 0).all()  # no hole is left
        for axis in (0, 1):
            steps = np.abs(np.diff(image, axis=axis)).mean(axis=(1 - axis, 2))
            across = np.abs(np.take(image, 0, axis) - np.take(image, -1, axis)).mean()
            apart = np.abs(np.take(image, 0, axis) - np.take(image, len(image) // 2, axis)).mean()
            assert across < 2 * steps.mean() and across < 0.6 * apart


def test_a_sheet_of_another_side_is_refused() -> None:
    source = Source.of([np.zeros((400, 400, 3), np.uint8)], [np.ones((100, 100), bool)], 128)
    with pytest.raises(ValueError, match=r"side=700: .* steps of 80 pixels"):
        quilt(np.random.default_rng(0), source, 700, 48)


def test_slides_for_testing_take_nothing_from_the_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    upper, expected, given = sheets(0, 640, 480), sheets(1, 640, 480), texture()
    dark = {
        name: np.where(np.arange(1500)[:, None, None] < 750, 0, getattr(given, name)) for name in ("stroma", "nest")
    }

    def other() -> Texture:
        return replace(given, **{name: image.astype(np.uint8) for name, image in dark.items()})

    monkeypatch.setattr(texture_module, "texture", other)
    for name in ("ground", "tumour", "look_alike"):
        np.testing.assert_array_equal(getattr(sheets.__wrapped__(1, 640, 480), name), getattr(expected, name))
    assert not np.array_equal(sheets.__wrapped__(0, 640, 480).tumour, upper.tumour)


# --- Look-alikes -----------------------------------------------------------------------------------------------------


def test_a_look_alike_has_the_colours_contrasts_and_spectrum_of_tumour(small: Sheets) -> None:
    tumour, alike = (sheet.astype(float) for sheet in (small.tumour, small.look_alike))
    np.testing.assert_allclose(alike.mean((0, 1)), tumour.mean((0, 1)), atol=2)
    np.testing.assert_allclose(alike.std((0, 1)), tumour.std((0, 1)), rtol=0.05)
    np.testing.assert_allclose(np.cov(alike.reshape(-1, 3).T), np.cov(tumour.reshape(-1, 3).T), rtol=0.1)
    powers = [_bands(sheet.mean(-1)) for sheet in (tumour, alike)]
    np.testing.assert_allclose(powers[1], powers[0], rtol=0.25)
    details = [(sheet - np.kron(block_means(sheet, 8), np.ones((8, 8, 1)))).ravel() for sheet in (tumour, alike)]
    assert abs(np.corrcoef(details)[0, 1]) < 0.4  # the forms are others


def _bands(plane: np.ndarray) -> np.ndarray:
    """Power in rings of an octave each, but for the longest waves."""
    power = np.abs(np.fft.fft2(plane - plane.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(len(plane))[:, None], np.fft.fftfreq(len(plane))[None])
    return np.array([power[(frequency > high / 2) & (frequency <= high)].mean() for high in 0.5 ** np.arange(1, 6)])


def test_matching_gives_the_means_of_blocks_and_keeps_what_is_within() -> None:
    rng = np.random.default_rng(0)
    image, phantom = (rng.uniform(80, 160, (64, 48, 3)).astype(np.float32) for _ in range(2))
    phantom = np.kron(phantom[::8, ::8], np.ones((8, 8, 1), np.float32))
    found = matched(image, phantom, rounds=20)
    np.testing.assert_allclose(block_means(found, BLOCK), block_means(phantom, BLOCK), atol=0.5)
    assert np.corrcoef((found / phantom).ravel(), image.ravel())[0, 1] > 0.8


def test_kinds_agree_in_the_overview_and_differ_in_a_glimpse(small: Sheets) -> None:
    """The same slide with foci and without: equal means of 8 x 8 pixels, other pixels."""
    plan = layout(2, 1024, 0)
    slides = []
    for kind in (FOCUS, LOOK_ALIKE):
        spots = tuple(replace(spot, kind=kind) for spot in plan.spots)
        rng = np.random.default_rng(5)
        look = Look.draw(rng, SITES[0])
        slides.append(paint(rng, replace(plan, spots=spots), look, small, texture().walls))
    for factor, most in ((8, 6), (16, 3)):
        low = [np.asarray(slide.reduce(factor)).astype(int) for slide in slides]
        assert np.abs(low[0] - low[1]).max() <= most
    spot = plan.spots[0]
    box = tuple(int(v) for v in (spot.x - 48, spot.y - 48, spot.x + 48, spot.y + 48))
    full = [np.asarray(slide.crop(box)).astype(int) for slide in slides]
    assert np.abs(full[0] - full[1]).mean() > 12
    stroma = np.median(np.asarray(slides[0].reduce(16))[(plan.labels == 1)], axis=0)
    row, column = int(spot.y) // 16, int(spot.x) // 16
    assert np.asarray(slides[0].reduce(16))[row, column].sum() < stroma.sum() - 100  # and dark against the stroma


@pytest.mark.slow
def test_random_features_are_blind_where_pretrained_ones_see() -> None:
    """Linear probes on windows of sheets, trained on the upper half of the images and tested on the lower."""
    pixels, kinds = zip(*(_windows(sheets(half, *sides(1024))) for half in (0, 1)), strict=True)
    networks = [EfficientNetLite0(3, stride=16, background=255.0)]
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(ConvEncoder(3, widths=(16, 32, 64, 128), background=255.0))
    aucs = []
    for network in networks:
        train, test = (_pooled(network, part) for part in pixels)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(train, kinds[0])
        aucs.append(float(roc_auc_score(kinds[1], probe.decision_function(test))))
    assert aucs[0] > 0.95, aucs
    assert np.mean(aucs[1:]) < 0.65, aucs


def _windows(given: Sheets) -> tuple[np.ndarray, np.ndarray]:
    """Squares of 128 pixels, each of another stain: uint8 (window, 3, 128, 128), and which of them are tumour."""
    rng, found, kinds = np.random.default_rng(3), [], []
    for y, x in np.argwhere(np.ones((9, 9), bool)) * 64:
        for kind, sheet in ((0, given.look_alike), (1, given.tumour)):
            look = Look.draw(rng, SITES[rng.integers(len(SITES))])
            colours = look.glass * np.exp(-DENSITY[sheet[y : y + 128, x : x + 128]] @ look.mixing)
            found.append(turned(np.clip(colours, 0, 255).astype(np.uint8), int(rng.integers(8))).transpose(2, 0, 1))
            kinds.append(kind)
    return np.stack(found), np.array(kinds)


def _pooled(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Mean and largest value of each feature."""
    with torch.no_grad():
        maps = [network.eval()(torch.from_numpy(part)).flatten(2) for part in np.array_split(pixels, 8)]
    return torch.cat([torch.cat([part.mean(2), part.amax(2)], dim=1) for part in maps]).numpy()


# --- Layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "fewest", "most"), [(1024, 2, 3), (3072, 4, 7)])
def test_both_classes_have_the_same_spots_but_for_their_kind(size: int, fewest: int, most: int) -> None:
    counts = set()
    for seed in range(4):
        negative, positive = (layout(seed, size, target) for target in (0, 1))
        np.testing.assert_array_equal(negative.labels, positive.labels)
        for one, other in zip(negative.spots, positive.spots, strict=True):
            np.testing.assert_array_equal(one.outline, other.outline)
            assert (one.y, one.x, one.radius) == (other.y, other.x, other.radius)
        assert {spot.kind for spot in negative.spots} == {LOOK_ALIKE}
        foci = sum(spot.kind == FOCUS for spot in positive.spots)
        assert 1 <= foci <= min(3, len(positive.spots) - 1)
        assert 2 <= len(positive.spots) <= most
        counts.add(len(positive.spots))
    assert max(counts) >= fewest


def test_spots_lie_apart_in_solid_tissue_and_hold_their_circle() -> None:
    for seed in range(3):
        plan = layout(seed, 3072, 1)
        covered = np.zeros_like(plan.labels, int)
        for spot in plan.spots:
            mask = polygon(spot.outline / 16 - 0.5, plan.labels.shape)
            covered += mask
            assert (plan.labels[mask] > 0).all() and (plan.labels[mask] != FAT).all()
            assert mask[int(spot.y) // 16, int(spot.x) // 16] and 40 < spot.radius < 300
            rows, columns = spot.box
            assert mask.sum() == mask[rows, columns].sum() and rows.start >= 0 and columns.stop <= 192
        assert covered.max() == 1


def test_spots_of_one_slide_are_not_the_same_tissue() -> None:
    for seed in range(4):
        spots = layout(seed, 3072, 1).spots
        cover = np.zeros((SHEET // 16,) * 2, int)
        for window, spot in zip(_apart(np.random.default_rng(seed), spots, SHEET), spots, strict=True):
            starts = (window.y // 16, window.x // 16)
            at = ((n + np.arange(m)) % len(cover) for n, m in zip(starts, spot.covered.shape, strict=True))
            turned(cover, window.turn)[np.ix_(*at)] += spot.covered
        assert (cover > 1).sum() < 0.03 * (cover > 0).sum()


def test_a_window_is_cut_around_the_edges_of_its_sheet() -> None:
    sheet = np.arange(36).reshape(6, 6)
    found = Window(5, 4, 4).cut(sheet, slice(0, 2), slice(1, 3))
    np.testing.assert_array_equal(found, np.roll(sheet[:, ::-1], (-5, -5), (0, 1))[:2, :2])


# --- Stain and scanner -----------------------------------------------------------------------------------------------


def looks(site: int, number: int) -> Iterator[Look]:
    rng = np.random.default_rng(site)
    return (Look.draw(rng, SITES[site]) for _ in range(number))


def test_a_stain_is_made_stronger_by_what_its_site_says() -> None:
    haematoxylin = _STAINS[0] / np.linalg.norm(_STAINS[0])
    for site in range(len(SITES)):
        found = np.mean([haematoxylin @ look.mixing for look in looks(site, 300)], axis=0)
        np.testing.assert_allclose(found, haematoxylin * SITES[site].stains[0] * SITES[site].gamma, rtol=0.03)


def test_sites_differ_more_than_the_slides_of_one() -> None:
    tissue = DENSITY[np.array([190, 120, 180])]
    colours = [np.array([look.glass * np.exp(-tissue @ look.mixing) for look in looks(site, 60)]) for site in range(4)]
    within = np.mean([of_one.std(0) for of_one in colours])
    assert np.std([of_one.mean(0) for of_one in colours], axis=0).mean() > 0.8 * within > 1


def test_a_scanner_blurs_or_sharpens_and_keeps_the_mean() -> None:
    noise = np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)
    spread = {}
    for sharpness in (-0.3, 0.0, 0.3):
        found = np.asarray(_focused(Image.fromarray(noise), sharpness)).astype(float)
        assert abs(found.mean() - noise.mean()) < 1
        spread[sharpness] = found.std()
    np.testing.assert_array_equal(np.asarray(_focused(Image.fromarray(noise), 0.0)), noise)
    assert spread[-0.3] < 0.9 * spread[0.0] < 0.9 * spread[0.3]
