"""A report about one denoised image: what was done to it, and how sure that is.

explain     finds everything out: `explain`, `Report`
filters     the network's Jacobian at some pixels, its filters and feature maps
page        one HTML file of it, which needs nothing else
"""

from denoise_ext.report.explain import Report, explain

__all__ = ["Report", "explain"]
