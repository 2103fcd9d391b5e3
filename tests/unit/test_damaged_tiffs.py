"""Large TIFFs are read lazily, and of damaged ones what is whole."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from glimpse.errors import MissingExtraError
from glimpse.sources import (
    ImageReadError,
    RegionReadError,
    caches,
    open_source,
)
from tests.tiff_files import TILED, pixels, write_ome


def test_only_the_tiles_that_are_touched_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ome(tmp_path / "a.ome.tif", pixels(2, height=640, width=640), levels=3)
    monkeypatch.setattr("glimpse.sources.tiff.segments.images", caches.ByteCache(1 << 24))
    source = open_source(path, windows=[0, 255])
    source.overview((4, 4))
    decoded: list[int] = []
    honest = type(source._opened().stacks[0])._decoded

    def counted(self: Any, page: Any, index: int) -> np.ndarray:
        decoded.append(index)
        return honest(self, page, index)

    monkeypatch.setattr("glimpse.sources.tiff.segments.Stack._decoded", counted)
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda _: source.read((320, 320), 64, (64, 64)), range(12)))
    assert len(decoded) == 8, "2 x 2 tiles of 2 channels, each once"
    np.testing.assert_array_equal(several[0], np.minimum(pixels(2, height=640, width=640)[:, 288:352, 288:352], 255))
    assert all((one == several[0]).all() for one in several)


def test_the_overview_of_a_large_image_of_one_level_needs_little_memory(tmp_path: Path) -> None:
    side = 6000
    content = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint16, (side, side))
    content[:] = np.arange(side, dtype=np.uint16)[:, None]
    tifffile.imwrite(tmp_path / "a.ome.tif", content[None], photometric="minisblack", metadata={"axes": "CYX"})
    source = open_source(tmp_path / "a.ome.tif", windows=[0, 6000])
    tracemalloc.start()
    overview = source.overview((60, 60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    middles = np.arange(60) * 100 + 49.5
    np.testing.assert_array_equal(overview[0, :, 7], np.floor(middles * 255 / 6000 + 0.5))
    assert peak < 100e6, "the image has 72 MB, twice that as floats"


def test_damage_is_named_with_its_place_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", pixels(), levels=1)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0][2]
        start, count = page.dataoffsets[0], page.databytecounts[0]
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(b"\xab" * count)
    source = open_source(path, windows=[0, 255])
    source.check()
    with pytest.raises(
        RegionReadError, match=r"a\.ome\.tif: cannot be read at level 0, 16 x 16 pixels from \(x 0, y 0\)"
    ):
        source.read((8, 8), 16, (16, 16))
    assert source.read((140, 190), 8, (8, 8)).any()
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ImageReadError, match=r"a\.ome\.tif: the file is truncated: .* reach(es)? to byte"):
        open_source(path, reader="slide").check()


def test_missing_tiles_are_background(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiles = iter([np.full((64, 64), 200, np.uint16), None, None, None])
        tiff.write(tiles, shape=(1, 128, 128), dtype="u2", metadata={"axes": "CYX"}, **TILED)
    shown = open_source(tmp_path / "a.ome.tif", windows=[0, 255]).overview((2, 2))
    assert shown.tolist() == [[[200, 0], [0, 0]]]


def test_a_codec_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels(), **TILED, compression="lzw", metadata={"axes": "CYX"})

    class Without(dict):
        def __missing__(self, key: int) -> None:
            raise KeyError(f"{key!r} requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Without())
    with pytest.raises(
        MissingExtraError, match=r"compressed as LZW.*package imagecodecs.*pip install .glimpse-rl\[tiff\]"
    ):
        open_source(tmp_path / "a.ome.tif").check()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing", [np.nan, np.inf])
@pytest.mark.parametrize("size", [100, 128])
def test_a_value_that_is_missing_changes_no_other(tmp_path: Path, missing: float, size: int) -> None:
    image = np.tile(np.linspace(100, 900, 520, dtype=np.float32), (1, 512, 1))
    views = []
    for name in ("whole", "missing"):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", image, ome=True, metadata={"axes": "CYX"}, **TILED)
        views.append(open_source(tmp_path / f"{name}.ome.tif").overview((size, size)).astype(int))
        image[0, 200, 300] = missing
    assert views[0].std() > 20 and np.abs(views[0] - views[1]).max() <= 1
