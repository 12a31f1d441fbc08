"""ComfyUI: a node that denoises images.

ComfyUI imports what is in its folder ``custom_nodes``. Put a file there with one line::

    from denoise_ext.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

Nothing of ComfyUI is imported. Its nodes are classes with the attributes below, and its images
are tensors (B, H, W, C), float32, black 0 and white 1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor

from denoise_ext.runtime.model_names import image_models
from denoise_ext.tasks import Denoiser

AUTOMATIC = "automatic"


class DenoiseImage:
    """The node "Denoise (denoise_ext)".

    Example:
        >>> from denoise_ext.integrations.comfyui import NODE_CLASS_MAPPINGS
        >>> node = NODE_CLASS_MAPPINGS["DenoiseExtDenoise"]()
        >>> [clean] = node.denoise(torch.rand(1, 48, 64, 3), "automatic", 15.0, 1.0)
        >>> clean.shape
        torch.Size([1, 48, 64, 3])
    """

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    FUNCTION: ClassVar[str] = "denoise"
    CATEGORY: ClassVar[str] = "image/postprocessing"
    DESCRIPTION: ClassVar[str] = "Removes noise. Sigma is on the 0-255 scale; 0: estimated."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        """The inputs, their types, ranges and defaults."""
        number = {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.5}
        share = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}
        return {
            "required": {
                "image": ("IMAGE",),
                "model": ([AUTOMATIC, *image_models()],),
                "sigma": ("FLOAT", number),
                "strength": ("FLOAT", share),
            }
        }

    def denoise(self, image: Tensor, model: str, sigma: float, strength: float) -> tuple[Tensor]:
        """Denoise a batch.

        Args:
            image: (B, H, W, C), C from 1 to 4, floating point, black 0 and white 1.
            model: "automatic", or a name of `denoise_ext.models.list_models(pretrained=True)`.
            sigma: level of the noise on the 0-255 scale; 0: found in each image.
            strength: 1: the network's result; 0: the image; between, a blend of both.

        Returns:
            The batch in a tuple, the form of results in ComfyUI. Values are clipped to [0, 1].

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
        """
        if image.dim() != 4:
            raise ValueError(f"image must be (B, H, W, C), got shape {tuple(image.shape)}")
        denoiser = _denoiser(None if model == AUTOMATIC else model)
        planes = image.movedim(-1, 1)  # (B, C, H, W)
        clean = denoiser.run(planes, sigma or None, strength=strength).image
        return (clean.movedim(1, -1).clamp(0, 1).contiguous(),)


@lru_cache(maxsize=4)
def _denoiser(model: str | None) -> Denoiser:
    """Networks stay loaded from run to run."""
    return Denoiser(model)


NODE_CLASS_MAPPINGS: dict[str, type] = {"DenoiseExtDenoise": DenoiseImage}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {"DenoiseExtDenoise": "Denoise (denoise_ext)"}
