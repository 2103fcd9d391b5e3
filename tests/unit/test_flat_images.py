"""Large images of one level only: overviews are made of parts, in memory that does not grow with the image."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

SIDE, TILE = 12_288, 512  # 604 MB as OpenSlide decodes it, with four channels
_READ = """
import resource, sys
import numpy as np
from glimpse import open_source
source = open_source(sys.argv[1], **({"windows": [0, 255]} if sys.argv[1].endswith(".ome.tif") else {}))
source.read((100, 100), 64, (64, 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
overview = source.overview((24, 24))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
np.save(sys.argv[2], overview)
"""


def tiles() -> Iterator[np.ndarray]:
    """Tiles of one value each, which grows by 10 with every row, and by 1 with every column."""
    for row in range(SIDE // TILE):
        for column in range(SIDE // TILE):
            yield np.full((TILE, TILE, 3), 10 * row + column, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_the_overview_of_an_image_of_one_level_needs_memory_for_parts_only(name: str, tmp_path: Path) -> None:
    """One is read by OpenSlide, the other by tifffile; both are compressed, and 24 x 24 tiles."""
    tifffile.imwrite(
        tmp_path / name,
        tiles(),
        shape=(SIDE, SIDE, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="zlib",
        metadata={"axes": "YXS"} if name == "a.ome.tif" else None,
    )
    environment = {"GLIMPSE_IMAGE_CACHE_MB": "64", "GLIMPSE_OPENSLIDE_CACHE_MB": "64"}
    line = [sys.executable, "-c", _READ, str(tmp_path / name), str(tmp_path / "overview.npy")]
    done = subprocess.run(line, capture_output=True, text=True, env={**environment, "PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0, done.stderr
    values = np.add.outer(10 * np.arange(24), np.arange(24)).astype(np.uint8)
    np.testing.assert_array_equal(np.load(tmp_path / "overview.npy"), np.broadcast_to(values, (3, 24, 24)))
    assert float(done.stdout) < 300, "MiB; decoded whole, it takes twice that"
