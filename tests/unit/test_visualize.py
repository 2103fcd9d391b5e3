"""Pictures show what happened, where it happened."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from glimpse.envs import FlattenAction, array_cases, make_array
from glimpse.geometry import Frame
from glimpse.networks.locator import GaussianLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.pictures import drawing, episodes
from glimpse.pictures.charts import contribution_chart
from glimpse.pictures.curves import budget_curve
from glimpse.pictures.drawing import order_colours
from glimpse.pictures.episodes import (
    agreement_picture,
    common_heat_map,
    draw_scanpath,
    glimpse_strip,
    heat_map,
    looked_at,
    scanpath_picture,
    to_gif,
)
from glimpse.pictures.geojson import to_geojson
from glimpse.pictures.labels import letters
from glimpse.pictures.planes import coloured
from glimpse.reading.calibration import calibrated
from glimpse.reading.lanes import Access
from glimpse.reading.readers import PolicyReader, reader_named
from glimpse.reading.records import Reading, Trace
from glimpse.tasks import Classification
from tests.reports import reading_by_hand


def environment(ndim: int) -> FlattenAction:
    shape = (64,) * ndim if ndim < 3 else (24, 32, 32)
    arrays = np.random.default_rng(0).integers(1, 256, (2, 1, *shape), np.uint8)
    return FlattenAction(make_array(array_cases(arrays, [0, 1]), overview_size=32, glimpse_size=8, max_glimpses=3))


def built(env: FlattenAction, **parts: object) -> GlimpsePolicy:
    torch.manual_seed(0)
    return GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout, **parts)  # type: ignore[arg-type]


def traced(env: FlattenAction, policy: GlimpsePolicy, index: int, budget: int, reader: str = "policy") -> Reading:
    """A reading of one of the environment's cases, with a trace."""
    inner = env.unwrapped
    (reading,) = reader_named(reader, policy, Access(inner.views, inner.task), budget).read(
        [inner.cases[index]], trace=True
    )
    return reading


@pytest.fixture(scope="module", params=[1, 2, 3])
def reading(request: pytest.FixtureRequest) -> Reading:
    env = environment(request.param)
    return traced(env, built(env), 1, 4)


def test_cell_probabilities_say_where_it_looks() -> None:
    env = environment(2)
    policy = built(env)
    seen = traced(env, policy, 0, 2)
    assert seen.traced.cells.shape == (3, *policy.grid.cells)
    np.testing.assert_allclose(seen.traced.cells.sum((1, 2)), 1, atol=1e-5)
    for cells, location in zip(seen.traced.cells[:2], seen.scanpath, strict=True):
        assert cells.flatten().argmax() == int(
            ((location[0] + 1) / 2 * policy.grid.cells[0]) // 1 * policy.grid.cells[1]
            + ((location[1] + 1) / 2 * policy.grid.cells[1]) // 1
        )
    assert traced(env, policy, 0, 2, "grid").traced.cells[0].max() == pytest.approx(1)


def test_a_gaussian_has_its_hill_where_it_looks() -> None:
    env = environment(2)
    policy = built(env, locator=GaussianLocator)
    seen = traced(env, policy, 0, 1)
    row, column = np.unravel_index(seen.traced.cells[0].argmax(), policy.grid.cells)
    expected = (seen.scanpath[0] + 1) / 2 * policy.grid.cells
    assert (abs(row + 0.5 - expected[0]), abs(column + 0.5 - expected[1])) <= (0.51, 0.51)


def test_a_policy_that_stops_at_once() -> None:
    env = environment(2)
    seen = traced(env, built(env, stop_bias=9.0), 0, 5)
    assert len(seen.traced.glimpses) == 0 and seen.scanpath.shape == (0, 2) and seen.predictions.shape == (1, 2)
    assert scanpath_picture(seen).shape[-1] == 3
    assert to_geojson(seen)["features"] == []


def test_names_with_line_breaks_are_drawn_like_those_with_spaces(reading: Reading) -> None:
    broken, plain = (replace(reading, id=name) for name in ("a\nb\tc\x00d", "a b c d"))
    assert np.array_equal(scanpath_picture(broken), scanpath_picture(plain))
    assert np.array_equal(agreement_picture([broken, broken]), agreement_picture([plain, plain]))


def test_boxes_lie_where_the_glimpses_were() -> None:
    overview = np.full((3, 50, 100), 128, np.uint8)  # twice as wide as high
    scanpath, extents = np.array([[-0.5, 0.5]], np.float32), np.array([[0.2, 0.1]])
    drawn = draw_scanpath(overview, scanpath, extents, height=200)
    assert drawn.shape == (200, 400, 3)
    blue = (drawn == order_colours(1)[0]).all(-1)
    # Centre (y, x) = (50, 300), size (40, 40): the frame's outer edge is one pixel outside, its width is 3.
    for place in [(50, 280), (50, 320), (30, 300), (70, 300)]:
        assert blue[place], f"no frame at {place}"
    assert not blue[:25].any() and not blue[75:].any() and not blue[:, :275].any()
    assert (drawn[50, 300] == 128).all()  # what was read stays visible


def test_lines_join_glimpses_in_order() -> None:
    overview = np.zeros((1, 100, 100), np.uint8)
    scanpath = np.array([[-0.8, -0.8], [-0.8, 0.8], [0.8, 0.8]], np.float32)
    drawn = draw_scanpath(overview, scanpath, np.full((3, 2), 0.05), height=200)
    across, down = drawn[18:22, 100].tolist(), drawn[100, 178:182].tolist()  # a line is one or two pixels wide
    assert list(order_colours(3)[1]) in across and list(order_colours(3)[2]) in down
    assert (drawn[100, 100] == 0).all()  # the first and the last are not joined


def test_the_heat_map_is_hottest_at_the_most_probable_cell() -> None:
    cells = np.zeros((4, 4), np.float32)
    cells[1, 2], cells[3, 0] = 0.9, 0.1
    drawn = heat_map(np.full((3, 32, 32), 200, np.uint8), cells, height=64).astype(int)
    colour = np.abs(drawn - drawn.mean(-1, keepdims=True)).sum(-1)
    assert (colour[16:32, 32:48] > 50).all() and (colour[48:, :16] > 20).all()
    assert (colour[:16] == 0).all() and (colour[48:, 16:] == 0).all()
    assert drawn[24, 40].sum() > drawn[56, 8].sum()  # the better one is brighter


def test_the_strip_holds_every_glimpse_and_goes_on_below() -> None:
    glimpses = np.random.default_rng(0).integers(0, 200, (5, 3, 16, 16), np.uint8)
    probabilities = np.stack([np.linspace(1, 0, 6), np.linspace(0, 1, 6)], 1)
    one_row = glimpse_strip(glimpses, probabilities, ("normal", "tumour"), height=96, width=2000)
    rows = glimpse_strip(glimpses, probabilities, ("normal", "tumour"), height=96, width=330)
    assert rows.shape[0] > 1.9 * one_row.shape[0] and rows.shape[1] <= 330
    for i in range(5):
        left = i * (96 + 6 + 10) + 3
        expected = np.asarray(Image.fromarray(coloured(glimpses[i])).resize((96, 96), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(one_row[40:99, left : left + 96], expected[37:])
    bars = [(one_row[-4, i * 112 : i * 112 + 102] == order_colours(5)[i]).all(-1).sum() for i in range(5)]
    assert bars == sorted(bars) and bars[-1] >= 100 and bars[0] == pytest.approx(0.2 * 101, abs=2)


def test_a_caption_wider_than_its_glimpse_is_written_whole() -> None:
    glimpse, caption = np.zeros((1, 1, 8, 4), np.uint8), "p(adenocarcinoma in situ) 0.93"
    strip = glimpse_strip(glimpse, np.full((1, 2), 0.5), ("a", "b"), captions=[(caption, 0.0)])
    dark = (strip[106:120] < 128).any((0, 2)).nonzero()[0]  # columns with letters, between the glimpse and the bar
    wide = letters(11).getlength(caption)
    assert wide - 3 <= dark.max() < strip.shape[1] <= wide + 3


def test_the_answer_shown_is_the_second_of_two_or_the_best_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr("glimpse.pictures.drawing.write", lambda pen, place, text, *rest, **more: texts.append(text))
    glimpses = np.zeros((1, 1, 8, 8), np.uint8)
    glimpse_strip(glimpses, np.array([[0.5, 0.5], [0.9, 0.1]]), ("a", "b"))
    glimpse_strip(glimpses, np.array([[0.1, 0.2, 0.7]]), ("a", "b", "c"))
    assert texts == ["1", "p(b) 0.10", "1", "p(c) 0.70"]


def test_contributions_are_what_the_answer_lacks_without_a_look(reading: Reading) -> None:
    env = environment(reading.scanpath.shape[1])
    policy, trace, zoom = built(env).eval(), reading.traced, torch.as_tensor(reading.zooms)
    with torch.no_grad():
        seen = policy.look(torch.as_tensor(trace.glimpses))
        tokens = policy.glimpse_token(seen, torch.as_tensor(reading.scanpath), zoom)
        views = (torch.as_tensor(one[None]) for one in (trace.overview, trace.foreground * np.uint8(255)))
        first = policy.scene(*views, torch.as_tensor(trace.extents[:1, None])).token
        for left_out in range(4):
            kept = torch.cat([first, tokens[:left_out], tokens[left_out + 1 :]])
            answer = policy.answer_head(policy.aggregator(kept[None]))[0, -1]
            np.testing.assert_allclose(np.asarray(trace.without)[left_out], answer, atol=1e-5)
    np.testing.assert_allclose(np.asarray(trace.without)[-1], reading.predictions[-2], atol=1e-5)
    given = reading.contributions
    assert given is not None
    np.testing.assert_allclose(given[-1], reading.probabilities[-1] - reading.probabilities[-2], atol=1e-6)
    cooler = calibrated(reading, 2.5)  # all answers alike, also those without a look
    given = np.asarray(cooler.contributions)
    np.testing.assert_allclose(given[-1], cooler.probabilities[-1] - cooler.probabilities[-2], atol=1e-6)
    assert calibrated(reading, None) is reading
    given = np.asarray(reading.contributions)
    bars = [bar.get_height() for bar in contribution_chart(reading).axes[0].patches]
    np.testing.assert_allclose(bars, given[:, 1])


def test_a_trace_changes_neither_answers_nor_random_numbers() -> None:
    env = environment(2)
    policy, inner = built(env, overview_dropout=1.0), env.unwrapped
    reader, states, answers = reader_named("policy", policy, Access(inner.views, inner.task), 3), [], []
    for trace in (False, True):
        torch.manual_seed(0)
        answers.append([reading.predictions for reading in reader.read(inner.cases, trace=trace)])
        states.append(torch.get_rng_state())
    np.testing.assert_array_equal(*answers)
    assert torch.equal(*states)


def test_rollouts_are_drawn_and_their_picture_says_how_far_they_agree() -> None:
    env = environment(2)
    inner = env.unwrapped

    def drawn(seed: int) -> list[Reading]:
        reader = PolicyReader("policy", built(env), Access(inner.views, inner.task), 2, seed=seed, drawn=True)
        return reader.read(inner.cases[:1] * 5, trace=True)

    one, again, other = (np.stack([reading.scanpath for reading in drawn(seed)]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other) and len(np.unique(one[:, 0], axis=0)) > 1
    readings = drawn(0)
    picture = agreement_picture(readings, height=100)
    assert picture.shape[1] >= 100
    np.testing.assert_array_equal(picture[20:, :100], common_heat_map(readings, 100))  # under a title
    with pytest.raises(ValueError, match="at least one rollout"):
        agreement_picture([])


def test_whole_pictures_in_any_number_of_dimensions(reading: Reading, tmp_path: Path) -> None:
    picture = scanpath_picture(reading)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3
    assert (picture != 255).mean() > 0.2
    to_gif(reading, tmp_path / "reading.gif", height=64)
    with Image.open(tmp_path / "reading.gif") as gif:
        assert gif.n_frames == len(reading.predictions) == 5


def test_glimpses_keep_their_numbers_and_colours_in_a_part_of_the_strip() -> None:
    glimpses = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), np.uint8)
    answers = np.full((6, 2), 0.5)
    whole = glimpse_strip(glimpses, answers, ["normal", "tumour"])
    part = glimpse_strip(glimpses[2:4], answers[:2], ["normal", "tumour"], before=2, count=5)
    step = (whole.shape[1] + 10) // 5  # a tile and the gap beside it
    np.testing.assert_array_equal(part, whole[:, 2 * step : 4 * step - 10])


def test_frames_of_an_animation_have_one_size_and_show_the_last_six_glimpses(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    strip = episodes.glimpse_strip

    def noted(glimpses: np.ndarray, answers: np.ndarray, *rest: Any, **options: Any) -> np.ndarray:
        shown.append((len(glimpses), len(answers), options["before"], options["count"]))
        return strip(glimpses, answers, *rest, **options)

    monkeypatch.setattr(episodes, "glimpse_strip", noted)
    frames = episodes.episode_frames(by_hand([[0.1 * i - 0.4, 0.0] for i in range(8)], 0.1), height=96)
    assert len(frames) == 9 and len({frame.size for frame in frames}) == 1
    assert (
        shown[0] == (0, 1, 0, 8) and shown[1] == (1, 1, 0, 8) and shown[6] == (6, 6, 0, 8) and shown[8] == (6, 6, 2, 8)
    )


def by_hand(scanpath: list[list[float]], extent: float, shape: tuple[int, ...] = (200, 400)) -> Reading:
    """A reading with a budget of len(scanpath) glimpses of a black image, on a grid of 4 cells per axis."""
    ndim, count = len(shape), len(scanpath)
    predictions = np.array([[0.0, 0.0]] * count + [[0.0, 1.0]], np.float32)
    trace = Trace(
        task=Classification(["normal", "tumour"]),
        frame=Frame(shape),
        overview=np.zeros((3, *[8] * ndim), np.uint8),
        foreground=np.ones((1, *[8] * ndim), np.uint8),
        glimpses=np.zeros((count, 3, *[4] * ndim), np.uint8),
        extents=np.full((count, ndim), extent),
        cells=np.full((count + 1, *[4] * ndim), 4.0**-ndim, np.float32),
        parents=np.full(count, -1),
    )
    return reading_by_hand("s", 1, predictions, np.array(scanpath, np.float32), trace)


@pytest.mark.parametrize("extent", [0.5, 0.1, 0.01])
def test_where_many_episodes_looked(extent: float) -> None:
    corner, middle = [-0.75, -0.75], [0.25, 0.25]  # centres of cells
    episodes = [by_hand([corner, middle], extent), by_hand([corner, corner], extent)]
    share = looked_at(episodes)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[2, 2] = 1.0, 0.5
    if extent == 0.5:  # wide enough to show the centres of the cells around it
        expected[1:, 1:] = 0.5
        expected[:2, :2] = 1.0
    np.testing.assert_array_equal(share, expected)
    assert common_heat_map(episodes, height=100).shape == (100, 200, 3)  # the image is twice as wide as high


def test_a_common_heat_map_needs_one_size_of_overview() -> None:
    with pytest.raises(ValueError, match="one size, got 2"):
        common_heat_map([by_hand([[0.0, 0.0]], 0.1), by_hand([[0.0] * 3], 0.1, (20, 20, 20))])


def test_geojson_by_hand(tmp_path: Path) -> None:
    to_geojson(by_hand([[0.0, 0.5]], 0.1), tmp_path / "glimpses.geojson")
    (feature,) = json.loads((tmp_path / "glimpses.geojson").read_text())["features"]
    # Centre (x, y) = (300, 100); 40 wide and 20 high.
    ring = feature["geometry"]["coordinates"][0]
    np.testing.assert_allclose(ring, [[280, 90], [320, 90], [320, 110], [280, 110], [280, 90]], atol=1e-3)
    assert feature["properties"]["measurements"]["p_tumour"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_geojson_is_for_planes_only() -> None:
    env = environment(3)
    with pytest.raises(ValueError, match="two-dimensional images, this one has 3 axes"):
        to_geojson(traced(env, built(env), 0, 1))


def test_pictures_need_a_trace() -> None:
    bare = replace(by_hand([[0.0, 0.5]], 0.1), trace=None)
    for draw in (scanpath_picture, to_geojson):
        with pytest.raises(ValueError, match="s: this reading has no trace"):
            draw(bare)


def test_a_case_without_a_target_has_a_title_without_one() -> None:
    assert scanpath_picture(replace(by_hand([[0.0, 0.5]], 0.1), target=None)).shape[-1] == 3


def test_budget_curve_draws_what_it_is_given(tmp_path: Path) -> None:
    def row(value: float | None) -> dict[str, dict[str, float | None]]:
        return {"auc": {"value": value, "low": value and value - 0.1, "high": value and value + 0.05}}

    curves = {"ppo": {4: row(0.8), 0: row(0.5), 8: row(0.9), 16: row(None)}, "full_scan": {300: row(0.95)}}
    figure = budget_curve(curves, path=tmp_path / "curve.png")
    line, across = figure.axes[0].get_lines()
    assert line.get_xydata().tolist() == [[0, 0.5], [4, 0.8], [8, 0.9]]  # in order; what is not known is left out
    assert set(across.get_ydata()) == {0.95}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ppo", "full_scan"]
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_numbers_of_glimpses_at_the_edge_lie_inside_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[float, float, float]] = []

    def noted(
        pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Any, size: int, **rest: Any
    ) -> None:
        written.append((*place, pen.textlength(text, font=letters(size))))

    monkeypatch.setattr(drawing, "write", noted)
    trace = by_hand([[-1.0, 1.0], [0.0, 0.98], [0.0, 0.0]], 0.2).traced
    picture = drawing.draw_scanpath(
        trace.overview, np.array([[-1.0, 1.0], [0.0, 0.98], [0.0, 0.0]]), trace.extents, 200
    )
    numbers = written[:3]
    assert all(x + wide <= picture.shape[1] and y >= 0 for x, y, wide in numbers)
    assert numbers[2][0] < 0.8 * picture.shape[1]  # beside its glimpse, where there is room
