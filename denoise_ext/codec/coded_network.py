"""A sealed codec ready to run: pictures to latents and back, latents to bytes and back."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext._loader import native
from denoise_ext.models import load_checkpoint, pretrained_info
from denoise_ext.models.coded_prior import QUALITIES, CodedPrior
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.models.network import Tensors
from denoise_ext.runtime import RunOptions, Session
from denoise_ext.runtime.tile_planner import cut
from denoise_ext.runtime.tiling import Places

MODEL = "dxcodec_1"
"""The model whose weights ship."""
_LARGEST = 32767  # magnitude of a latent
_WHITE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


class CodedNetwork:
    """Runs a sealed `DXCodec`. Threads may share it.

    Args:
        network: sealed.
        digest: the first 8 bytes of the SHA-256 of its file, which its files of pictures hold.
        options: tile and max_memory are used, and the precision.

    Raises ValueError for another network.

    Example:
        >>> codec = denoise_ext.codec.load_codec("codec.safetensors")
        >>> latents = codec.latents(np.zeros((32, 48, 3), np.uint8), sigma=0.0, quality=50)
        >>> data = codec.encode_tile(latents, 50)
        >>> bool((codec.decode_tile(data, 2, 3, 50) == latents).all())
        True
    """

    def __init__(self, network: DXCodec, digest: bytes, options: RunOptions | None = None) -> None:
        if not isinstance(network, DXCodec) or not isinstance(network.prior, CodedPrior):
            raise ValueError(
                "model must be a sealed DXCodec: recipes/seal makes one of a trained one"
            )
        native()  # raises where the library is missing: files have no other decoder
        self.network, self.digest = network.eval(), digest
        self.prior: CodedPrior = network.prior
        self._options = options or RunOptions(device="cpu")
        planned = self._options.backend == "native"
        precision = self._options.precision
        self._analysis = Session(network.analysis, precision, planned)
        self._synthesis = Session(network.synthesis, precision, planned)

    @torch.inference_mode()
    def latents(self, pixels: np.ndarray, sigma: float, quality: int) -> Tensor:
        """(h, w, M) int16: the rounded latents of (H, W) or (H, W, 3) pixels, uint8 or uint16.

        ``sigma`` is the noise's standard deviation on the 0-255 scale.
        """
        gray = pixels.ndim == 2
        planes = torch.from_numpy(pixels[..., None] if gray else pixels).permute(2, 0, 1)[None]
        white = _WHITE[pixels.dtype]
        # Copied noise is so much stronger in their mean than independent noise.
        level = torch.full((1, 1, 1, 1), sigma * (math.sqrt(3.0) if gray else 1.0) / 255.0)
        height, width = pixels.shape[:2]
        stride = self.network.stride
        found = torch.empty(
            -(-height // stride), -(-width // stride), self.network.latents, dtype=torch.int16
        )
        gains = self.network.gains(self._level(quality))

        def read(places: Places) -> Tensors:
            part = planes[(slice(None), slice(None), *places["image"])].float() / white
            return {"image": part.expand(-1, 3, -1, -1).contiguous(), "noise_map": level}

        def write(places: Places, outputs: Tensors) -> None:
            whole = (outputs["latents"] * gains).round().clamp(-_LARGEST, _LARGEST)
            found[places["latents"]] = whole[0].permute(1, 2, 0).short()

        grid, _ = cut(self._analysis, (1, height, width), self._options)
        self._analysis.run_tiles(grid, read, write)
        return found

    @torch.inference_mode()
    def pixels(
        self, latents: Tensor, quality: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        """Pixels (H, W) or (H, W, 3) of ``dtype`` from latents (h, w, M)."""
        made = np.empty(shape, dtype)
        inverse = self.network.inverse_gains(self._level(quality))
        rows, columns = latents.shape[:2]
        white = _WHITE[made.dtype]

        def read(places: Places) -> Tensors:
            part = latents[places["latents"]].permute(2, 0, 1)[None].float()
            return {"latents": part.contiguous() * inverse}

        def write(places: Places, outputs: Tensors) -> None:
            image = outputs["image"][0]
            image = image.mean(0) if made.ndim == 2 else image.permute(1, 2, 0)
            whole = (image.clamp(0.0, 1.0) * white).round().numpy().astype(made.dtype)
            there = made[places["image"]]
            there[...] = whole[: there.shape[0], : there.shape[1]]

        grid, _ = cut(self._synthesis, (1, rows, columns), self._options)
        self._synthesis.run_tiles(grid, read, write)
        return made

    def encode_tile(self, latents: Tensor, quality: int) -> bytes:
        """The bytes of the latents (h, w, M) of a tile."""
        encode = torch.ops.denoise_ext.latents_encode
        return bytes(encode(latents.contiguous(), *self._numbers(quality)).numpy())

    def decode_tile(self, data: bytes, rows: int, columns: int, quality: int) -> Tensor:
        """The latents of `encode_tile`. ValueError for data that are not such latents."""
        if not data:
            raise ValueError("a tile must have bytes")
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            return torch.ops.denoise_ext.latents_decode(
                values, rows, columns, *self._numbers(quality)
            )
        except RuntimeError as error:
            raise ValueError(str(error).splitlines()[0]) from None

    def _numbers(self, quality: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prior = self.prior
        return prior.weights, prior.first_at(quality), prior.inside, prior.frequencies

    def _level(self, quality: int) -> Tensor:
        return self.network.level_weights(torch.tensor([quality / QUALITIES]))


def load_codec(
    model: str | os.PathLike[str] | None = None, options: RunOptions | None = None
) -> CodedNetwork:
    """The codec of a file of weights; None: the one that ships.

    A file is read once and kept while it does not change.

    Raises:
        ValueError: no weights ship, or the file is none of a sealed codec.

    Example:
        >>> len(denoise_ext.codec.load_codec("codec.safetensors").digest)
        8
    """
    if model is None:
        shipped = pretrained_info(MODEL)
        if shipped is None:
            raise ValueError(
                f"model: {MODEL} has no trained weights in this version; give a file of a sealed"
                " codec"
            )
        shipped.verify()
        model = shipped.path
    path = Path(model)
    try:
        facts = path.stat()
    except OSError as error:
        raise ValueError(f"model: cannot open {str(path)!r}: {error.strerror}") from None
    return _loaded(path, facts.st_mtime_ns, facts.st_size, options or RunOptions(device="cpu"))


@functools.lru_cache(maxsize=4)
def _loaded(path: Path, changed: int, size: int, options: RunOptions) -> CodedNetwork:
    network = load_checkpoint(path)
    digest = hashlib.sha256(path.read_bytes()).digest()
    try:
        return CodedNetwork(network, digest[:8], options)  # type: ignore[arg-type]  # it checks
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
