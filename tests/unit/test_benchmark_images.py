"""What benchmarks make and compare with: slides whose tiles share their bytes, and a network on whole images."""

from pathlib import Path

import numpy as np
import openslide
import pytest

from benchmarks.shared_tiles import write_slide
from benchmarks.whole_image import accuracy_of_whole_images
from glimpse.cohort import Case
from glimpse.sources import open_source
from glimpse.sources.array import ArraySource


def test_a_slide_of_a_gigapixel_is_small_and_looks_as_one_of_a_megapixel(tmp_path: Path) -> None:
    small, large = (write_slide(tmp_path / f"{side}.tiff", side, seed=1) for side in (1024, 32_768))
    assert large.stat().st_size < 1 << 20
    with openslide.OpenSlide(large) as slide:
        sides = [32_768, 8192, 2048, 512]
        assert slide.level_dimensions == tuple((side, side) for side in sides)
        assert float(slide.properties.get("openslide.mpp-x", 0.5)) == 0.5
    masks = []
    for path in (small, large):
        source = open_source(path)
        source.check()
        assert source.spacing == (0.5, 0.5) and source.unit == "um"
        masks.append(source.foreground(source.overview((64, 64))))
    assert masks[0].mean() == pytest.approx(np.pi * 0.3**2, abs=0.02)
    assert (masks[0] == masks[1]).mean() > 0.97
    y, x = np.argwhere(masks[1]).mean(0) * 512  # what is tissue in the overview is tissue at full resolution
    assert source.read((y, x), (128, 128), (128, 128)).std() > 10
    assert source.read((300, 300), (128, 128), (128, 128)).min() > 235
    with pytest.raises(ValueError, match="multiple of 256 above 0, got 1000"):
        write_slide(tmp_path / "odd.tiff", 1000)


def test_the_network_learns_what_is_large_and_sees_all_test_images(tmp_path: Path) -> None:
    def case(number: int) -> Case:
        image = np.zeros((1, 64, 64), np.uint8)
        image[:, 10:40, 10:40] = 250 if number % 2 else 60
        return Case(str(number), str(number), ArraySource(image), number % 2)

    cases = [case(number) for number in range(40)]
    found = accuracy_of_whole_images(cases, cases[:33], 2, side=32, passes=40)
    assert found["accuracy"] > 0.9 and found["passes"] == 40 and found["seconds"] > 0
    least = accuracy_of_whole_images(cases[:3], cases[:3], 2, side=32, passes=0)
    assert least["passes"] == 2 and 0 <= least["accuracy"] <= 1
