"""A page and an HTTP API for people and programs that send pictures: ``denoise-ext serve``.

app         routes: what is answered to whom
parameters  the query, checked; `openapi` describes it
uploads     bodies, bounded in size, time and memory
pictures    from bytes to bytes: read, denoise, write; parts for the page
work        threads, queues and limits between both
kept        pictures that the page looks at, for some minutes
networks    which networks may be named, and their `Denoiser`
metrics     counters for Prometheus
server      sockets, slow clients, the end
page        HTML, CSS, JavaScript
"""

from denoise_ext.io.errors import optional

for _module in ("starlette", "uvicorn"):
    optional(_module, "web", "denoise_ext.service")

from denoise_ext.service.app import create_app  # noqa: E402
from denoise_ext.service.options import ServiceOptions  # noqa: E402
from denoise_ext.service.server import bind, serve  # noqa: E402

__all__ = ["ServiceOptions", "bind", "create_app", "serve"]
