"""How a slide was stained and scanned: every site has ways of its own, and every slide deviates from them a little."""

from dataclasses import dataclass

import numpy as np

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical densities (red, green, blue) of haematoxylin, eosin and the rest: Ruifrok and Johnston 2001."""


@dataclass(frozen=True)
class Site:
    """Where slides are made; the values are those about which its slides vary.

    Attributes:
        name: as in the column `site`.
        stains: strength of haematoxylin, eosin and the rest, as factors.
        glass: colour of the empty slide.
        gamma: exponent of the scanner's tone curve.
        sharpness: negative for a scanner that blurs, positive for one that sharpens.
        noise: standard deviation in grey levels.
        quality: of the JPEG tiles.
    """

    name: str
    stains: tuple[float, float, float]
    glass: tuple[float, float, float]
    gamma: float
    sharpness: float
    noise: float
    quality: int


SITES = (
    Site("north", (1.00, 1.00, 1.00), (244, 243, 244), 1.00, 0.00, 1.5, 80),
    Site("east", (1.18, 0.84, 0.95), (246, 246, 242), 0.94, 0.25, 1.0, 88),
    Site("south", (0.86, 1.15, 1.10), (239, 236, 241), 1.06, -0.20, 2.5, 72),
    Site("west", (0.94, 0.90, 1.25), (248, 245, 239), 1.02, 0.10, 2.0, 76),
)


@dataclass(frozen=True)
class Look:
    """The staining and scanning of one slide.

    Attributes:
        mixing: float32 (3, 3), applied to optical densities from the right.
        glass: float32 (3,), colour of the empty slide.
        sharpness: as of a `Site`.
        noise: as of a `Site`.
        quality: as of a `Site`.
    """

    mixing: np.ndarray
    glass: np.ndarray
    sharpness: float
    noise: float
    quality: int

    @property
    def empty(self) -> np.ndarray:
        """A pixel of the empty slide, uint8 (3,)."""
        return (self.glass + 0.5).astype(np.uint8)

    @classmethod
    def draw(cls, rng: np.random.Generator, site: Site) -> "Look":
        """Draws the look of a slide of a site."""
        stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
        strength = np.array(site.stains) * np.exp(rng.normal(0, 0.07, 3))
        hues = stains * (1 + rng.normal(0, 0.03, (3, 3)))
        gamma = site.gamma * (1 + rng.normal(0, 0.02, 3))
        mixing = np.linalg.inv(stains) @ np.diag(strength) @ hues * gamma  # a tone curve is a factor on densities
        return cls(
            mixing.astype(np.float32),
            np.clip(np.array(site.glass) + rng.normal(0, 1.5, 3), 230, 252).astype(np.float32),
            site.sharpness + rng.normal(0, 0.06),
            site.noise * float(np.exp(rng.normal(0, 0.2))),
            int(np.clip(site.quality + rng.integers(-4, 5), 60, 95)),
        )
