"""A network ready to run: device, precision, plan, memory, tiles."""

from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.from_module import FromModule, from_module
from denoise_ext.runtime.model_names import default_model, load_model, open_network
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session

__all__ = [
    "FromModule",
    "RunOptions",
    "Session",
    "choose_device",
    "default_model",
    "from_module",
    "load_model",
    "open_network",
]
