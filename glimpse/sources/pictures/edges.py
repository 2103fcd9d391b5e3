"""What touches the edge of an image."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage


def reaching_the_edge(area: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Returns the connected parts of an area that touch the edge of the image."""
    parts, count = ndimage.label(area)
    kept = np.zeros(count + 1, bool)
    kept[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = True
    kept[0] = False
    return kept[parts]
