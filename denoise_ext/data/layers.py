"""Made-up scenes with exact depth: surfaces cut from photographs, one before the other.

Depth sensors blur and shift the edges of their maps, and clean maps are rare.  In a scene of layers
every edge of the depth is an edge of the picture, at the same pixel.  The photographs have many
more edges than the depth: what is trained on such scenes learns not to copy them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from denoise_ext.data.aligned import Pair
from denoise_ext.data.cache import white_of
from denoise_ext.data.sampler import dihedral

_LAYERS = (3, 9)  # least, and one more than the most
_SLOPE = 0.25  # standard deviation of a surface's rise over the window, in units of white
_RADII = (0.06, 0.5)  # of an outline, in windows
_WAVES = 5  # harmonics of an outline
_CORNERED = 0.5  # part of the outlines that are polygons
_CORNERS = (3, 7)
_FLAT = 0.4  # part of the surfaces that face the camera
_ALIKE = 0.15  # part of the surfaces that have the picture of the one behind, a little brighter


class LayeredScenes:
    """Scenes of layers, made of images (H, W, 3), uint8 or uint16.

    Args:
        images: what the surfaces are cut from, each at least as large as the windows.
    """

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = images

    def draw(self, rng: np.random.Generator, side: int) -> Pair:
        """See `PairSource`."""
        rows, columns = (axis.astype(np.float32) for axis in np.mgrid[:side, :side] / side - 0.5)
        guide, depth = self._texture(rng, side), _surface(rng, rows, columns, 0.0)
        count = int(rng.integers(*_LAYERS))
        for place in range(count):
            inside = _outline(rng, rows, columns, side)
            texture = self._texture(rng, side)
            if rng.random() < _ALIKE:
                texture = guide * np.float32(rng.uniform(1.02, 1.25))
            # a pixel at the edge sees both surfaces, but has the depth of one
            cover = inside.clip(0.0, 1.0)[..., None]
            guide = guide + (texture - guide) * cover
            near = _surface(rng, rows, columns, (place + 1) / count)
            depth = np.where(inside > 0.5, near, depth)
        low, high = float(depth.min()), float(depth.max())
        depth = (depth - low) / max(high - low, 1e-6)
        return depth.astype(np.float32), guide.clip(0.0, 1.0).astype(np.float32)

    def _texture(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """(side, side, 3) float32 in [0, 1], of a random image."""
        image = self.images[int(rng.integers(len(self.images)))]
        v, u = rng.random(2)
        y = int(v * (image.shape[0] - side + 1))
        x = int(u * (image.shape[1] - side + 1))
        cut = dihedral(image[y : y + side, x : x + side], int(rng.integers(8)))
        return cut.astype(np.float32) / white_of(image)


def _surface(
    rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray, near: float
) -> np.ndarray:
    """Depth of a plane that is tilted and bent; ``near`` is that of its middle, about."""
    depth = np.full_like(rows, near + rng.normal(0.0, 0.1))
    if rng.random() >= _FLAT:
        down, across, *bent = rng.normal(0.0, _SLOPE, 4).tolist()
        depth += down * rows + across * columns + bent[0] * rows**2 + bent[1] * columns**2
    return depth


def _outline(
    rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray, side: int
) -> np.ndarray:
    """Distance in pixels to the edge of a random shape, plus one half: above 0.5 is inside."""
    y, x = rows - rng.uniform(-0.5, 0.5), columns - rng.uniform(-0.5, 0.5)
    radius = float(np.exp(rng.uniform(*np.log(_RADII))))
    if rng.random() < _CORNERED:
        turn, count = rng.uniform(0, 2 * np.pi), int(rng.integers(*_CORNERS))
        angles = turn + 2 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
        reach = radius * rng.uniform(0.5, 1.5, count)
        edges = [
            r - (math.cos(a) * x + math.sin(a) * y)
            for a, r in zip(angles.tolist(), reach.tolist(), strict=True)
        ]
        return np.minimum.reduce(edges) * side + 0.5
    angle = np.arctan2(y, x)
    heights = rng.normal(0.0, 0.25, _WAVES).tolist()
    phases = rng.uniform(0, 2 * np.pi, _WAVES).tolist()
    curve = np.zeros_like(angle)
    for n, (height, phase) in enumerate(zip(heights, phases, strict=True), 1):
        curve += height / n * np.cos(n * angle + phase)
    return (radius * (1.0 + curve) - np.hypot(y, x)) * side + 0.5
