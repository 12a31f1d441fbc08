"""What a network reads, takes and costs, found out by running it without an image."""

from denoise_ext.analysis.cost import gflop_per_megapixel
from denoise_ext.analysis.geometry import GeometryError
from denoise_ext.models.network import Geometry

__all__ = ["Geometry", "GeometryError", "gflop_per_megapixel"]
