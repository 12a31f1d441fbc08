"""Networks as files for other programs."""

from denoise_ext.export.onnx import ExportError, export_onnx

__all__ = ["ExportError", "export_onnx"]
