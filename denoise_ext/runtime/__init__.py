"""A network ready to run: device, precision, plan, memory, tiles."""

from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.families import default_model
from denoise_ext.runtime.from_module import FromModule, from_module
from denoise_ext.runtime.loading import load_model

__all__ = ["FromModule", "choose_device", "default_model", "from_module", "load_model"]
