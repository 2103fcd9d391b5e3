"""Derives the texture of the embedded slides from histolytics 0.3.0, once: what it writes is part of the package.

    pip download --no-deps histolytics==0.3.0
    unzip histolytics-0.3.0-py3-none-any.whl -d histolytics
    python -m benchmarks.tissue_texture histolytics glimpse/synthetic/slides/texture

It needs pyarrow and shapely, which the package itself does not.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

LABELS = {"stroma": 1, "tumor": 1, "necrosis": 2, "hemorragia": 3, "omental_fat": 4, "serum": 0}
"""Tumour is drawn as stroma: where tumour lies is decided by the layout of a slide alone."""

DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
MAP_SIZE = (66210, 47001)  # pixels (height, width) of the mapped slide
MAP_CELL = 32  # of them in a cell of the coarse map
MASK_CELL = 4
POINTS = 96  # of an outline
QUALITY = 93


def blurred(mask: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(np.asarray(mask, np.float32), sigma)


def coarse_map(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the mapped slide, uint8, and outlines of its tumour islands, (island, point, x and y), each centred and
    with a largest extent of 1."""
    table = pyarrow.parquet.read_table(next(wheel.rglob("hgsc_tissue_wsi.parquet")))
    parts, owner = shapely.get_parts(shapely.from_wkb(table["geometry"].to_pylist()), return_index=True)
    names, area = np.array(table["class_name"].to_pylist())[owner], shapely.area(parts)
    labels, outlines = np.zeros((MAP_SIZE[0] // MAP_CELL, MAP_SIZE[1] // MAP_CELL), np.uint8), []
    for index in np.argsort(-area):  # large ones first: islands are drawn into their surroundings
        rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(parts[index])]
        low, extent = rings[0].min(0), np.ptp(rings[0], axis=0)
        x, y = np.maximum(low // MAP_CELL, 0).astype(int)
        view = labels[y : y + int(extent[1]) // MAP_CELL + 2, x : x + int(extent[0]) // MAP_CELL + 2]
        mask = Image.new("L", view.shape[::-1])
        for number, ring in enumerate(rings):
            points = (ring - (x * MAP_CELL, y * MAP_CELL)) / MAP_CELL
            ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=int(number == 0))
        view[np.asarray(mask) > 0] = LABELS[names[index]]
        size, longest = extent.max(), np.hypot(*np.diff(rings[0], axis=0).T).max()
        whole = longest < 0.3 * size  # long edges are cuts by the tiles in which the map was made
        if names[index] == "tumor" and 200 < size < 1200 and whole and area[index] > 0.4 * size**2:
            outlines.append(resampled((rings[0] - low - extent / 2) / size))
    return labels, np.stack(outlines).astype(np.float16)


def resampled(ring: np.ndarray) -> np.ndarray:
    """Points at equal distances along a closed line."""
    way = np.concatenate([[0], np.hypot(*np.diff(ring, axis=0).T).cumsum()])
    at = np.linspace(0, way[-1], POINTS, endpoint=False)
    return np.stack([np.interp(at, way, ring[:, axis]) for axis in (0, 1)], axis=1)


def evened(image: np.ndarray, mask: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Removes half of the slow drift of optical density, and brings its mean inside the mask to `mean`."""
    density, inside = DENSITY[image], mask[..., None].astype(np.float32)
    slow, weight = (ndimage.gaussian_filter(part, (72, 72, 0)) for part in (density * inside, inside))
    density = density * (density[mask].mean(0) / (slow / (weight + 1e-3) + 0.05)) ** 0.5
    return np.clip(256 * np.exp(-density * mean / density[mask].mean(0)) - 0.5, 0, 255).astype(np.uint8)


def textures(wheel: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The two images with an even stain, and masks of where each kind of tissue lies."""
    nest, stroma = (
        np.asarray(Image.open(next(wheel.rglob(f"hgsc_{name}.jpg"))).convert("RGB")) for name in ("nest", "stromal_he")
    )
    types = np.load(next(wheel.rglob("hgsc_nest_type_mask.npz")))["nuc_raster"]
    immune, tumour = blurred(types == 2, 32), blurred(types == 3, 32)
    tumour_area = (tumour > 0.11) & (tumour > 2.5 * immune) & (blurred(nest.min(2) > 205, 12) < 0.5)
    margin = immune + tumour < 0.02  # stroma in the image of the tumour, so that no scanner gives tumour away
    margin[:330], margin[:, :1215] = False, False
    plain = blurred(stroma.min(2) > 215, 40) < 0.35
    plain[690:950, 1290:1440] = False  # some tumour cells
    mean = DENSITY[stroma][plain].mean(0)
    even = evened(nest, tumour_area, DENSITY[nest][tumour_area].mean(0))
    around = ndimage.binary_dilation(margin, iterations=24) & ~tumour_area
    even[around] = evened(nest, margin, mean)[around]
    masks = {"stroma": plain, "nest_stroma": margin, "nest_tumour": tumour_area}
    return {"stroma": evened(stroma, plain, mean), "nest": even}, masks


def walls(side: int = 512, cells: int = 4) -> np.ndarray:
    """Walls between fat cells, uint8: the borders of a wavy Voronoi diagram that continues itself on all sides."""
    rng = np.random.default_rng(7)
    seeds = (np.argwhere(np.ones((cells, cells))) + rng.uniform(0.05, 0.95, (cells**2, 2))) * side / cells % side
    grid = np.argwhere(np.ones((side, side), bool)).astype(float)
    grid = (grid + 5 * np.sin(grid[:, ::-1] * 2 * np.pi * 5 / side) + 3 * np.sin(grid * 2 * np.pi * 7 / side)) % side
    distance, who = cKDTree(seeds, boxsize=side).query(grid, 2)
    apart = np.linalg.norm((seeds[who[:, 0]] - seeds[who[:, 1]] + side / 2) % side - side / 2, axis=1)
    wall = np.clip(2.3 - (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart), 0, 1)
    return (255 * wall.reshape(side, side)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="folder of the unpacked wheel of histolytics 0.3.0")
    parser.add_argument("out", type=Path, help="folder to write to")
    options = parser.parse_args()
    images, masks = textures(options.wheel)
    labels, outlines = coarse_map(options.wheel)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(options.out / f"{name}.jpg", quality=QUALITY, subsampling=0, optimize=True)
    half = MASK_CELL // 2
    small = {name: np.packbits(mask[half::MASK_CELL, half::MASK_CELL], axis=1) for name, mask in masks.items()}
    np.savez_compressed(options.out / "tissue.npz", labels=labels, outlines=outlines, walls=walls(), **small)


if __name__ == "__main__":
    main()
