"""What is proposed where sizes do not fit: every proposal takes the place of the settings, and has to be accepted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from glimpse.cohort import Case
from glimpse.cohort.preflight import PreflightError, check_sizes
from glimpse.cohort.proposals import advice
from glimpse.geometry import CellGrid, Extent, Frame
from glimpse.inspecting.fitting import coarse_cells, network_for
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen
from glimpse.runs.loading import untrained_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.sources import ImageSource
from glimpse.train import train
from glimpse.views import Views

OVERVIEW, GLIMPSE = CellGrid((256, 256), (8, 8)), CellGrid((128, 128), (16, 16))  # 32 x 32 cells, and 8 x 8
EXPERIMENT = CellGrid((128, 128), (8, 8))  # of wide glimpses, with experiment=whole_slides


class Blank(ImageSource):
    """An image of any size, without pixels."""

    path = None

    def __init__(self, frame: Frame) -> None:
        self.name, self._frame = frame.name, frame

    frame = property(lambda self: self._frame)  # type: ignore[assignment]
    channels = property(lambda self: 3)  # type: ignore[assignment]
    background = property(lambda self: np.zeros(3, np.uint8))  # type: ignore[assignment]
    identity = property(lambda self: self._frame)  # type: ignore[assignment]

    def read(self, center: Any, extent: Any, size: Any) -> Any:
        raise NotImplementedError


def slide(height: int, width: int, name: str = "a.svs") -> Frame:
    return Frame((height, width), (0.25, 0.25), "um", name)


def plane(height: int, width: int, name: str = "a.nii") -> Frame:
    """As many pixels as a slide has, a thousand times as wide."""
    return Frame((height, width), (0.25, 0.25), "mm", name)


def views_of(*extents: Any, overview: CellGrid = OVERVIEW, glimpse: CellGrid = GLIMPSE) -> Views:
    return Views(overview.size, glimpse.size, extents)


def message(frames: Sequence[Frame], views: Views, grid: CellGrid = OVERVIEW, view_grid: CellGrid = GLIMPSE) -> str:
    """What a training says; "" if it goes on."""
    try:
        check_sizes([Case(one.name, one.name, Blank(one), 0) for one in frames], views, grid, view_grid=view_grid)
    except PreflightError as error:
        return str(error)
    return ""


def read(said: str) -> tuple[list[Any], tuple[int, ...] | None]:
    """The fields of view that a message proposes, and the overview that goes with them."""
    extents = r"env\.make\.glimpse_extents=(\[\S*?\])\"?(?: warm_up\.branches=null)? would do\."
    found = re.search(rf"(?:overview_size=(\[[\d,]+\]) and )?{extents}", said)
    if found is None and "experiment=whole_slides would do: " in said:
        return ["1024um", "64um"], None
    assert found is not None, said
    quoted = re.sub(r"([\d.]+(?:um|mm|mpp))", r"'\1'", found[2])
    return yaml.safe_load(quoted), tuple(yaml.safe_load(found[1])) if found[1] else None


def accepted(frames: Sequence[Frame], extents: Sequence[Any], grid: CellGrid, view_grid: CellGrid) -> bool:
    """The rules by themselves: glimpses fit, and cells lie at most one glimpse apart."""
    sizes = [np.array([Extent.parse(one).to_pixels(frame) for one in extents]) for frame in frames]
    inside = all((size <= frame.shape).all() for size, frame in zip(sizes, frames, strict=True))
    cells = all((np.multiply(f.shape, grid.pitch) <= s[0] + 1e-6).all() for s, f in zip(sizes, frames, strict=True))
    within = all((size[:-1] * view_grid.pitch <= size[1:] + 1e-6).all() for size in sizes)
    return inside and cells and within


# ---------------------------------------------------------------------------------------------- fields of view
@pytest.mark.parametrize(
    ("frames", "finest", "chain"),
    [
        # 131,072 pixels 0.25 wide: cells 1024 apart, so the first glimpse spans 2048; 64 * 4 * 4 are too few
        ([plane(131072, 131072)], "64mm", ["4096mm", "1024mm", "256mm", "64mm"]),
        ([plane(20000, 20000)], "64mm", ["1024mm", "256mm", "64mm"]),  # cells 156.25 apart
        ([plane(20000, 20000)], "64000um", ["1024000um", "256000um", "64000um"]),
        ([plane(20000, 20000)], 256, [4096, 1024, 256]),
        # the second image has cells 937.5 apart
        ([plane(20000, 20000), plane(120000, 120000, "b.nii")], "64mm", ["4096mm", "1024mm", "256mm", "64mm"]),
        # cells 781.25 apart on an image 1500 high: twice that does not fit
        ([plane(6000, 100000)], "64mm", ["1024mm", "256mm", "64mm"]),
        ([plane(3600, 100000)], "64mm", ["781.3mm", "256mm", "64mm"]),  # 900 high
        ([slide(3600, 100000)], "64um", ["782um", "256um", "64um"]),  # no place for the experiment's 1024um
    ],
)
def test_fields_of_view_reach_all_of_all_images(frames: list[Frame], finest: Any, chain: list[Any]) -> None:
    said = message(frames, views_of(finest))
    assert read(said) == (chain, None) and "Zoom: " in said and "experiment" not in said
    assert message(frames, views_of(*chain)) == ""
    assert accepted(frames, chain, OVERVIEW, GLIMPSE)


@pytest.mark.parametrize(
    ("frames", "finest", "chain"),
    [
        ([slide(131072, 131072)], "64um", ["1024um", "64um"]),  # its own
        ([slide(32000, 32000), slide(20000, 20000, "b.svs")], "128um", ["1024um", "128um"]),  # 2 of its cells
        ([slide(20000, 20000)], "0.064mm", ["0.512mm", "0.064mm"]),
        ([slide(20000, 20000)], "0.5mpp", ["512um", "64um"]),
        ([slide(20000, 20000)], 256, [2048, 256]),
        ([slide(6000, 100000)], "64um", ["1024um", "64um"]),
        ([slide(60000, 60000)], "16um", ["1024um", "128um", "16um"]),
    ],
)
def test_slides_are_offered_the_experiment_and_as_few_fields_of_view_with_its_settings(
    frames: list[Frame], finest: Any, chain: list[Any]
) -> None:
    said = message(frames, views_of(finest))
    assert "cannot be reached. Zoom: experiment=whole_slides would do: it has [1024um,64um] and the settings" in said
    assert read(said) == (chain, None) and ("warm_up.branches=null would do" in said) == (len(chain) > 2)
    assert ('Or keep its other settings: experiment=whole_slides "env.make' in said) == (chain != ["1024um", "64um"])
    for extents in (chain, ["1024um", "64um"]):
        assert message(frames, views_of(*extents), view_grid=EXPERIMENT) == ""
        assert accepted(frames, extents, OVERVIEW, EXPERIMENT)


def test_fields_of_view_that_were_asked_for_are_kept_with_the_experiment_if_they_do() -> None:
    frames = [slide(60000, 60000)]
    assert read(message(frames, views_of("2048um", "128um"))) == (["2048um", "128um"], None)
    said = message(frames, views_of("4mm", "16um"), view_grid=EXPERIMENT)
    assert "env.make.glimpse_extents=[4mm,252um,16um] would do. So would [1024um,64um], of experiment=whole" in said
    assert message(frames, views_of("4mm", "252um", "16um"), view_grid=EXPERIMENT) == ""


# ---------------------------------------------------------------------------------------------- several were asked for
@pytest.mark.parametrize(
    ("asked", "chain"),
    [
        (["64um", "1024um"], ["1024um", "64um"]),
        (["64um", "512um", "128um"], ["512um", "128um", "64um"]),
        (["1024um", "64um", "64um"], ["1024um", "64um"]),
        ([256, "1024um"], ["1024um", 256]),
    ],
)
def test_fields_of_view_in_another_order_are_put_in_order(asked: list[Any], chain: list[Any]) -> None:
    frames = [slide(60000, 60000), slide(30000, 30000, "b.svs"), slide(200, 200, "speck.svs")]
    said = message(frames, views_of(*asked), view_grid=EXPERIMENT)
    listed = ",".join(map(str, chain))
    assert said.endswith(f"From wide to fine, env.make.glimpse_extents=[{listed}] would do."), said
    assert message(frames[:2], views_of(*chain), view_grid=EXPERIMENT) == ""


def test_fields_of_view_that_are_too_far_apart_as_well_are_put_in_order_and_nearer() -> None:
    said = message([slide(60000, 60000)], views_of("64um", "2048um"), view_grid=EXPERIMENT)
    assert read(said)[0] == ["1024um", "64um"] and "Choose" not in said and "Change" not in said


@pytest.mark.parametrize(
    ("shape", "asked", "chain"),
    [
        ((200, 200, 200), ["96mm", "24mm"], ["72mm", "24mm"]),  # cells are a third of a glimpse wide
        ((200, 200, 200), [96, 24], [72, 24]),
        ((200, 200, 200), ["24mm", "96mm"], ["72mm", "24mm"]),
        ((120, 240, 240), ["192mm", "96mm", "24mm"], ["120mm", "72mm", "24mm"]),  # 120 mm deep
        ((200, 200, 200), [["24mm", "96mm", "96mm"], ["24mm"] * 3], [["24mm", "72mm", "72mm"], ["24mm"] * 3]),
        ((400, 400, 400), ["96mm", "12mm"], ["96mm", "33.94mm", "12mm"]),  # 36 mm would leave cells 30 mm apart
        ((24, 200, 200), ["24mm", "24mm"], ["24mm"]),  # nothing wider fits
    ],
)
def test_several_fields_of_view_stay_several_and_near_those_that_were_asked_for(
    shape: tuple[int, ...], asked: list[Any], chain: list[Any]
) -> None:
    grid, view_grid = CellGrid((40, 40, 40), (4, 4, 4)), CellGrid((24, 24, 24), (8, 8, 8))
    volume = Frame(shape, (1.0, 1.0, 1.0), "mm", "mr.nii")
    said = message([volume], views_of(*asked, overview=grid, glimpse=view_grid), grid, view_grid)
    assert read(said) == (chain, None)
    assert accepted([volume], chain, grid, view_grid)


@pytest.mark.parametrize(
    ("finest", "chain"),
    [
        ("24mm", ["216mm", "72mm", "24mm"]),  # cells are a third of a glimpse wide; 648 mm would not fit
        ([24, 96, 96], None),
        ([8, 32, 32], [[57, 228, 228], [24, 96, 96], [8, 32, 32]]),  # cells lie 113.8 voxels apart
        (["24mm", "32mm", "32mm"], [["216mm", "288mm", "288mm"], ["72mm", "96mm", "96mm"], ["24mm", "32mm", "32mm"]]),
    ],
)
def test_a_volume_of_thick_slices_is_proposed_what_fits_on_each_axis(finest: Any, chain: Any) -> None:
    volume = Frame((60, 512, 512), (5.0, 0.7, 0.7), "mm", "ct.nii")  # 300 x 358.4 x 358.4 mm
    grid, view_grid = CellGrid((36, 36, 48), (4, 8, 8)), CellGrid((24, 24, 24), (8, 8, 8))
    said = message([volume], views_of(finest, overview=grid, glimpse=view_grid), grid, view_grid)
    found = read(said)[0]
    assert chain is None or found == chain
    assert message([volume], views_of(*found, overview=grid, glimpse=view_grid), grid, view_grid) == ""
    assert accepted([volume], found, grid, view_grid)


def test_all_fields_of_view_may_span_the_whole_depth_of_a_few_slices() -> None:
    stack, grid, view_grid = (
        Frame((8, 4096, 4096), (5.0, 0.1, 0.1), "mm", "stack.nii"),
        CellGrid((8, 96, 96), (1, 8, 8)),
        CellGrid((8, 32, 32), (1, 4, 4)),
    )
    found = read(
        message([stack], views_of(["40mm", "6.4mm", "6.4mm"], overview=grid, glimpse=view_grid), grid, view_grid)
    )[0]
    assert found == [["40mm", f"{wide}mm", f"{wide}mm"] for wide in (102.4, 25.6, 6.4)]
    assert accepted([stack], found, grid, view_grid)


@pytest.mark.parametrize("finest", [96, [96, 96]])
def test_no_field_of_view_is_proposed_that_is_hardly_wider_than_the_next(finest: Any) -> None:
    frames = [Frame((300, 300), name="small.png"), Frame((4000, 4000), name="large.png")]
    found = read(message(frames, views_of(finest)))[0]
    assert [np.atleast_1d(one).tolist() for one in found] == [[250] * np.size(finest), [96] * np.size(finest)]


def test_cells_of_wide_glimpses_that_are_too_coarse() -> None:
    grid, view_grid, image = CellGrid((10, 14), (1, 1)), CellGrid((8, 8), (2, 2)), Frame((40, 60), name="a.npy")
    said = message([image], views_of(20, 4, overview=grid, glimpse=view_grid), grid, view_grid)
    assert "env.make.glimpse_extents=[16,4] would do. A smaller network.view_cell" in said and "Zoom" not in said
    big = Frame((400, 600), name="big.npy")  # cells 40 and 42.9 pixels apart; each extent is twice the next
    said = message([big], views_of(4, overview=grid, glimpse=view_grid), grid, view_grid)
    assert "Zoom: env.make.glimpse_extents=[128,64,32,16,8,4] would do." in said
    assert message([big], views_of(128, 64, 32, 16, 8, 4, overview=grid, glimpse=view_grid), grid, view_grid) == ""


def test_other_sizes_that_would_do() -> None:
    grid, image = CellGrid((10, 14), (1, 1)), Frame((40, 60), name="a.npy")
    views = Views((10, 14), (8, 8), (4,))
    said = advice(views, [image], grid, CellGrid((8, 8), (8, 8)))  # a glimpse is one cell, so zoom is of no use
    assert said == (
        "Choose a larger overview_size (more cells; 10 x 15 is enough) or a larger glimpse_extents "
        "(5 pixels are enough)."
    )
    assert advice(Views((10, 15), (8, 8), (4,)), [image], CellGrid((10, 15), (1, 1))) == ""
    assert advice(Views((10, 14), (8, 8), (5,)), [image], grid) == ""


# ---------------------------------------------------------------------------------------------- images of all sizes
def test_a_larger_overview_where_no_fields_of_view_fit() -> None:
    said = message([slide(1500, 60000)], views_of("64um"))  # 375 um high, cells 468.75 um apart
    assert "a.svs (1500 x 60000 pixels) is smaller than glimpses of 469um, which it needs under this overview" in said
    extents, overview = read(said)
    assert (extents, overview) == (["256um", "64um"], (256, 469))  # 60000 / 469 * 8 = 1023.5 of 1024 pixels
    grid = CellGrid(overview, (8, 8))
    assert message([slide(1500, 60000)], Views(overview, (128, 128), tuple(extents)), grid) == ""
    assert not accepted([slide(1500, 60000)], extents, CellGrid((256, 468), (8, 8)), GLIMPSE)


def test_a_small_image_among_large_ones_is_named() -> None:
    frames = [slide(200, 200, "speck.svs"), slide(900, 900, "small.svs"), slide(120000, 120000, "large.svs")]
    said = message(frames, views_of("64um"))
    assert "small.svs (900 x 900 pixels) is smaller than glimpses of 938um, which large.svs needs" in said
    assert "Leave out speck.svs, which is smaller than a glimpse of 64um." in said
    extents, overview = read(said)
    assert accepted(frames[1:], extents, CellGrid(overview, (8, 8)), GLIMPSE)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_proposed_is_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ndim, count = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    unit, spacing = ("um", tuple(rng.uniform(0.2, 0.6, 2))) if ndim == 2 else ("mm", tuple(rng.uniform(0.5, 5, 3)))
    top = 5.2 if ndim == 2 else 2.8
    frames = [Frame(tuple(10 ** rng.uniform(2, top, ndim)), spacing, unit, f"{i}.x") for i in range(count)]
    grid = CellGrid(tuple(rng.integers(32, 257, ndim)), tuple(rng.choice([4, 8, 16], ndim)))
    view_grid = CellGrid(tuple(rng.integers(24, 129, ndim)), tuple(rng.choice([4, 8, 16], ndim)))
    finest = [f"{n:.3g}{unit}" for n in rng.uniform(5, 60, ndim)] if rng.random() < 0.5 else int(rng.integers(4, 90))
    views = Views(grid.size, view_grid.size, (finest,))
    said = advice(views, frames, grid, view_grid)
    served = [frame for frame in frames if (Extent.parse(finest).to_pixels(frame) <= frame.shape).all()]
    if "would do" in said:
        extents, overview = read(said)
        assert accepted(served, extents, CellGrid(overview or grid.size, grid.side), view_grid)
        assert extents[-1] == finest
    if more := re.search(r"more cells; ([\d x]+) is enough", said):
        size = tuple(map(int, more[1].split(" x ")))
        assert accepted(served, [finest], CellGrid(size, grid.side), view_grid)
    if wider := re.search(r"glimpse_extents \((\[.*?\]|[^ ]+) (?:pixels are|is) enough", said):
        ((extent,), _) = read(f"env.make.glimpse_extents=[{wider[1]}] would do.")
        assert accepted(served, [extent], grid, view_grid)
    assert not said or not accepted(served, [finest], grid, view_grid)


# ---------------------------------------------------------------------------------------------- who says it
def test_the_experiment_for_whole_slides_is_offered_where_it_would_accept_all_slides() -> None:
    settings = composed("env=wsi", "experiment=whole_slides")
    assert (list(settings.env.make.glimpse_extents), settings.network.view_cell) == (["1024um", "64um"], 8)
    hint = "experiment=whole_slides"
    assert hint in message([slide(60000, 60000)], views_of("128um"))
    assert hint not in message([slide(3600, 60000)], views_of("128um"))  # 900 um high
    assert hint not in message([slide(60000, 60000), slide(3600, 3600, "b.svs")], views_of("128um"))
    assert hint not in message([slide(60000, 140000)], views_of("128um"))  # 35 mm wide
    assert hint in message([slide(4096, 131072)], views_of("128um"))
    assert hint not in message([Frame((4000, 60000), name="a.png")], views_of(512))


@pytest.mark.parametrize(
    ("settings", "channels", "ndim", "times"),
    [
        (["env=wsi"], 3, 2, [8, 8]),
        (["env=wsi", "experiment=whole_slides"], 3, 2, [16, 16]),
        (["env=mri"], 1, 3, [3, 3, 3]),
        (["env=ct"], 1, 3, [12, 3, 3]),
    ],
)
def test_how_far_apart_fields_of_view_may_be_is_as_documented(
    settings: list[str], channels: int, ndim: int, times: list[int]
) -> None:
    network = network_for(OmegaConf.to_container(composed(*settings), resolve=True), channels, ndim)
    assert network.policy is not None and np.allclose(1 / np.array(network.policy.view_grid.pitch), times)


def test_a_run_that_keeps_its_sizes_proposes_none() -> None:
    cases = [Case("a", "a", Blank(slide(60000, 60000)), 0)]
    with pytest.raises(PreflightError, match=r"so parts of the image cannot be reached\. Leave it out\.$"):
        check_sizes(cases, views_of("128um"), OVERVIEW, remedy="Leave it out.")


def test_what_a_check_of_images_proposes_is_the_same_for_all() -> None:
    settings = composed("env=wsi", "network/encoder=small", "network.cell=8", "env.make.glimpse_extents=[64um]")
    network = network_for(OmegaConf.to_container(settings, resolve=True), 3, 2)
    assert network.policy is not None and network.policy.grid == OVERVIEW
    cases = []
    for position, side in enumerate((20000, 4000, 120000)):
        seen = Seen()
        seen.shape, seen.spacing, seen.unit = [side, side], [0.25, 0.25], "um"
        cases.append((position, Candidate(str(side), Path(f"/slides/{side}.svs"), "wsi"), seen))
    found = coarse_cells(network, cases)
    assert [position for position, _ in found] == [0, 2]
    frames, (extents, _) = [slide(side, side) for side in (20000, 4000, 120000)], read(found[0][1].remedy)
    assert found[0][1].remedy == found[1][1].remedy and accepted(frames, extents, OVERVIEW, network.policy.view_grid)
    assert all(finding.what.startswith("cells coarser than glimpses: 32 x 32 cells") for _, finding in found)


def test_a_training_whose_first_image_is_too_small_is_told_what_all_images_need(
    tiny_slides: Path, tmp_path: Path
) -> None:
    given = ("network/encoder=small", f"env.cohort.path={tiny_slides}", f"run={tmp_path / 'run'}")
    with pytest.raises(PreflightError, match=r"The sizes do not fit the images: .* larger than the image") as raised:
        train(composed(*given, "env.make.glimpse_extents=[2048um,64um]"))
    extents, _ = read(str(raised.value))
    assert len(extents) == 2 and extents[1] == "64um" and not (tmp_path / "run").exists()
    config = composed(*given, f"env.make.glimpse_extents=[{','.join(extents)}]")
    cohort = build(config.env.cohort)
    views = build(config.env.make, cohort=cohort, split="train").unwrapped.views
    policy = untrained_policy(config.network, 3, views)
    check_sizes(cohort, views, policy.grid, view_grid=policy.view_grid)
