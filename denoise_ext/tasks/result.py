"""What a `Denoiser` gives back beside the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from denoise_ext.io import Picture
from denoise_ext.models import Port
from denoise_ext.tasks.noise_analysis import NoiseProfile
from denoise_ext.tasks.other_outputs import joined_outputs, outputs_in_part
from denoise_ext.tasks.part import Part, cropped
from denoise_ext.tasks.treatment import one_line
from denoise_ext.tasks.trust import Trust, trust_in_part


@dataclass(frozen=True)
class Result:
    """A denoised image, with noise level, time and tiles.

    Example:
        >>> result = denoise_ext.Denoiser().run("photo.png")
        >>> result.image.shape, result.sigma_estimated, result.treatment
        ((48, 64, 3), True, 'white noise, sigma ...: dxnet_s_color')
    """

    image: Any
    """The result, of the same kind as the given image."""
    sigma: Any
    """The noise level that the network was conditioned on, on the 0-255 scale, given or estimated.
    A float; for a batch a tensor (N,); for a picture the mean of its frames.  None if the
    network needs none; NaN in a batch with other networks."""
    sigma_estimated: bool
    seconds: float
    tiles: int
    """Number of tiles; 0 if there was nothing to compute."""
    recomputed: int
    """Number of tiles that were recomputed in float32 after an overflow of a 16-bit type."""
    noise: tuple[NoiseProfile, ...] = ()
    """What the analysis found, one for each image; none if a model or a sigma was given."""
    treatment: str = ""
    """What the analysis found, and what was done, in one line; "" without an analysis."""
    trust: Trust | None = field(default=None, repr=False)
    texture: float = 0.0
    """0 to 1, as in `Denoiser`. Above 0 fine detail is partly made up."""
    outputs: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the network gives beside the image, by name, such as "noise_level" of "dxnet_s_photo".

    float32, in the network's own units (white is 1) and size.  A tensor for a tensor, else an array
    (h, w) or (h, w, C); for a picture of several frames a list."""

    @property
    def uncertainty(self) -> Any:
        """Standard deviation of the error of each pixel, on the 0-255 scale.

        A tensor in the layout of a tensor, else an array (H, W) or (H, W, C) float32, without
        alpha.  None: `uncertainty_reason` has the reason.
        """
        return self.trust.uncertainty if self.trust else None

    @property
    def expected_psnr(self) -> float | None:
        """PSNR of the result in dB, found without the clean image; None as `uncertainty`."""
        return self.trust.expected_psnr if self.trust else None

    @property
    def expected_psnr_error(self) -> float | None:
        """Standard error of `expected_psnr` in dB."""
        return self.trust.expected_psnr_error if self.trust else None

    @property
    def interval_90(self) -> float | None:
        """How many times `uncertainty` the error of a pixel is at most, in 90 % of the pixels.

        Fitted on images of their own; None for networks without such a figure.
        """
        return self.trust.interval_90 if self.trust else None

    @property
    def uncertainty_reason(self) -> str:
        """Why there is no `uncertainty`; "" where there is one."""
        return self.trust.reason if self.trust else "Denoiser(uncertainty=16) was not asked for"

    def samples(self, count: int, steps: int = 40, seed: int = 0) -> list[Any]:
        """Draw images that could be the clean one, of the kind of the image.

        Where they differ, the network does not know.  Each takes `steps` passes.  Fewer steps give
        samples that differ too little.

        Raises:
            ValueError: there is no `uncertainty`, or a count or number of steps below 1.
        """
        if self.trust is None or self.trust.sampler is None:
            raise ValueError(f"samples: {self.uncertainty_reason}")
        for name, value in (("count", count), ("steps", steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        return [self.trust.sampler(steps, seed + i) for i in range(count)]


def result_in_part(result: Result, place: Part, ports: Mapping[str, Port]) -> Result:
    """That of a window, for a part of it: PSNR stays that of the window.

    Args:
        result: of an array, or of a picture of one frame.
        place: the part's rows and columns of the window.
        ports: the outputs of the network.
    """
    return replace(
        result,
        image=cropped(result.image, place),
        trust=result.trust and trust_in_part(result.trust, place),
        outputs=outputs_in_part(result.outputs, place, ports),
    )


def joined(picture: Picture, parts: list[tuple[Result, int]]) -> Result:
    """Join results of a picture's parts, each with its count of numbers that are not finite."""
    results, missing = [result for result, _ in parts], sum(count for _, count in parts)
    levels = [
        float(torch.as_tensor(result.sigma, dtype=torch.float64).nanmean())
        for result in results
        if result.sigma is not None
    ]
    joined = picture.with_frames([frame for result in results for frame in result.image.frames])
    return Result(
        noted(joined, missing),
        sum(levels) / len(levels) if levels else None,
        any(result.sigma_estimated for result in results),
        sum(result.seconds for result in results),
        sum(result.tiles for result in results),
        sum(result.recomputed for result in results),
        tuple(profile for result in results for profile in result.noise),
        one_line(result.treatment for result in results),
        _joined_trust([result.trust for result in results]),
        outputs=joined_outputs([result.outputs for result in results]),
    )


def noted(picture: Picture, missing: int) -> Picture:
    """A result, with a note of the numbers that are not finite (`ImageView.missing`)."""
    note = f"{missing} numbers are not finite and stay as they are"
    return replace(picture, notes=(*picture.notes, note)) if missing else picture


def _joined_trust(parts: list[Trust | None]) -> Trust | None:
    """That of a picture of one frame; of several frames none."""
    if len(parts) == 1 or None in parts:
        return parts[0]
    return Trust(reason=f"the picture has {len(parts)} frames; give them one by one")
