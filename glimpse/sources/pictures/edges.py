"""What touches the edge of an image."""

import numpy as np
import scipy  # whose parts are imported where they are used first: `scipy.ndimage` takes long
from jaxtyping import Bool


def reaching_the_edge(area: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Returns the connected parts of an area that touch the edge of the image."""
    parts, count = scipy.ndimage.label(area)
    kept = np.zeros(count + 1, bool)
    kept[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = True
    kept[0] = False
    return kept[parts]
