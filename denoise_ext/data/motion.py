"""Synthetic video: still images in motion, for which every clean frame is known.

A scene is a background and up to two objects before it. Each of them is an image that moves along
a path of its own: translation, acceleration, rotation, zoom, perspective, shake. Cameras that stand
still, fades and cuts occur as in real video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.data.cache import white_of
from denoise_ext.data.sampler import dihedral

# How often what occurs, and how strong it is (standard deviations; pixels and frames).
_STILL = 0.3  # a background or an object that does not move
_OBJECTS = (0.4, 0.4, 0.2)  # no object, one, two
_SPEED, _OBJECT_SPEED = 3.0, 4.0
_ACCELERATES, _ROTATES, _ZOOMS, _TILTS, _SHAKES = 0.5, 0.4, 0.4, 0.2, 0.3
_ROTATION, _ZOOM, _TILT = 0.01, 0.006, 1e-4  # per frame
_SHAKE = 1.0  # at most
_REDUCED, _LARGEST_REDUCTION = 0.5, 1.3  # images that are shown smaller than they are
_BLURRED, _FAST, _SHUTTER, _SAMPLES = 0.5, 3.0, 0.5, 4  # blur of what moves by more pixels a frame
_CUT, _FADE, _DRIFT = 0.05, 0.1, 0.2
_DARKEST, _DRIFT_PER_FRAME = 0.2, 0.01
_ELLIPSE = 0.5  # objects whose outline is an ellipse; the others have that of a bright area


class MovingImages:
    """Sequences made from still images.

    Args:
        images: (H, W, C), uint8 or uint16.
        crop: rows and columns of the frames.
        frames: of a sequence, T.
        probabilities: of the images, >= 0 with a sum above 0; None: all alike.

    Raises ValueError where there is no image.
    """

    images: Sequence[np.ndarray]
    crop: int
    frames: int

    def __init__(
        self,
        images: Sequence[np.ndarray],
        crop: int,
        frames: int,
        probabilities: np.ndarray | None = None,
    ) -> None:
        if not len(images):
            raise ValueError("no images to move")
        self.images, self.crop, self.frames = images, crop, frames
        weights = np.ones(len(images)) if probabilities is None else probabilities
        self.bounds: np.ndarray = np.cumsum(weights)[:-1] / np.sum(weights)

    def sequence(self, rng: np.random.Generator) -> Tensor:
        """(T, C, crop, crop) float32 in [0, 1], a function of the generator's state."""
        made = self._scene(rng)
        if self.frames > 1 and rng.random() < _CUT:
            first = int(rng.integers(1, self.frames))
            made = torch.cat([made[:first], self._scene(rng)[first:]])
        return (made * self._exposure(rng)).clamp(0.0, 1.0)

    def _exposure(self, rng: np.random.Generator) -> Tensor:
        """(T, 1, 1, 1), the brightness of every frame."""
        time = np.linspace(0.0, 1.0, self.frames)
        gain = np.ones(self.frames)
        if rng.random() < _FADE:
            first, last = rng.uniform(_DARKEST, 1.0, 2)
            gain = first + (last - first) * time
        elif rng.random() < _DRIFT:
            gain = 1.0 + rng.normal(0.0, _DRIFT_PER_FRAME) * self.frames * (time - 0.5)
        return torch.from_numpy(gain).float().reshape(-1, 1, 1, 1)

    def _scene(self, rng: np.random.Generator) -> Tensor:
        path = self._path(rng, _SPEED)
        made = self._sampled(self._image(rng), path, rng)
        for _ in range(rng.choice(len(_OBJECTS), p=_OBJECTS)):
            path = self._path(rng, _OBJECT_SPEED)
            layer = self._sampled(self._image(rng), path, rng)
            made = made + (layer - made) * self._outline(rng, path)
        return made

    def _image(self, rng: np.random.Generator) -> Tensor:
        """(C, H, W) in [0, 1], one of eight ways round."""
        image = self.images[int(np.searchsorted(self.bounds, rng.random(), side="right"))]
        turned = dihedral(image, int(rng.integers(8)))
        pixels = torch.from_numpy(turned.copy()).permute(2, 0, 1)
        return pixels.float() / white_of(image)

    def _path(self, rng: np.random.Generator, speed: float) -> Tensor:
        """(T * samples, crop, crop, 2): x and y of each pixel on a surface that moves.

        In pixels of the surface, from the middle of the frame at half time. Several samples of a
        frame are the times at which the shutter is open.
        """
        count, still = self.frames, rng.random() < _STILL
        velocity = rng.normal(0.0, 0.0 if still else speed, 2)
        acceleration = rng.normal(0.0, speed / 5, 2) * (rng.random() < _ACCELERATES)
        turn = rng.normal(0.0, _ROTATION) * (rng.random() < _ROTATES)
        zoom = rng.normal(0.0, _ZOOM) * (rng.random() < _ZOOMS)
        tilt = rng.normal(0.0, _TILT, 2) * (rng.random() < _TILTS)
        shake = rng.uniform(0.0, _SHAKE) * (rng.random() < _SHAKES)
        scale = rng.uniform(1.0, _LARGEST_REDUCTION) if rng.random() < _REDUCED else 1.0
        shaken = shake * rng.normal(0.0, 1.0, (count, 2))
        blurred = rng.random() < _BLURRED and math.hypot(*velocity) > _FAST and not still
        if still:
            acceleration, tilt, shaken = 0.0 * acceleration, 0.0 * tilt, 0.0 * shaken
            turn = zoom = 0.0
        samples = _SAMPLES if blurred else 1
        open_for = _SHUTTER * np.arange(samples) / samples
        time = (np.arange(count)[:, None] - (count - 1) / 2 + open_for).reshape(-1, 1)
        place = velocity * time + 0.5 * acceleration * time**2 + shaken.repeat(samples, axis=0)
        side = np.arange(self.crop) - (self.crop - 1) / 2
        x, y = np.meshgrid(side, side)
        angle, size = turn * time[..., None], scale * np.exp(zoom * time[..., None])
        cos, sin = size * np.cos(angle), size * np.sin(angle)
        depth = 1.0 + time[..., None] * (tilt[0] * x + tilt[1] * y)
        depth = depth.clip(0.5, 2.0)
        moved = np.stack([(cos * x - sin * y) / depth, (sin * x + cos * y) / depth], axis=-1)
        return torch.from_numpy(moved + place[:, None, None]).float()

    def _sampled(self, image: Tensor, path: Tensor, rng: np.random.Generator) -> Tensor:
        """The image (C, H, W) seen along a path from a random place on: (T, C, crop, crop)."""
        size = np.array(image.shape[2:0:-1], float)
        inner = np.minimum(0.6 * self.crop, size / 2)
        middle = torch.from_numpy(rng.uniform(inner, size - inner)).float()
        # positions of pixels' middles, as grid_sample counts them: -1 and 1 are the image's edges
        grid = 2.0 * (path + middle) / torch.from_numpy(size).float() - 1.0
        seen = F.grid_sample(
            image.expand(len(grid), *image.shape), grid, "bicubic", "reflection", False
        )
        return seen.unflatten(0, (self.frames, -1)).mean(1)

    def _outline(self, rng: np.random.Generator, path: Tensor) -> Tensor:
        """(T, 1, crop, crop) in [0, 1], an area that moves along the path."""
        if rng.random() < _ELLIPSE:
            axes = torch.from_numpy(self.crop * rng.uniform(0.12, 0.45, 2)).float()
            middle = torch.from_numpy(self.crop * rng.uniform(-0.35, 0.35, 2)).float()
            distance = ((path - middle) / axes).square().sum(-1).sqrt()
            # one pixel from inside to outside
            inside = ((1.0 - distance) * axes.min() + 0.5).clamp(0.0, 1.0)
            return inside[:, None].unflatten(0, (self.frames, -1)).mean(1)
        seen = self._sampled(self._image(rng).mean(0, keepdim=True), path, rng)
        smooth = F.avg_pool2d(F.avg_pool2d(seen, 9, 1, 4), 9, 1, 4)
        threshold = float(np.quantile(smooth.numpy(), rng.uniform(0.4, 0.8)))
        return ((smooth - threshold) * 40.0 + 0.5).clamp(0.0, 1.0)
