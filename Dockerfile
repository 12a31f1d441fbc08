# The page and the HTTP API of denoise_ext on a CPU.
#
#   docker build -t denoise-ext .
#   docker run --rm -p 127.0.0.1:8000:8000 denoise-ext
#
# --build-arg PIP_OPTIONS="..." passes options to pip, such as an index with CPU wheels of PyTorch.
# docs/service.md has memory, tokens and limits.

FROM python:3.12-slim AS build
ARG PIP_OPTIONS=""
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY constraints.txt .
RUN python -m venv /opt/denoise && . /opt/denoise/bin/activate && \
    pip install --no-cache-dir $PIP_OPTIONS -c constraints.txt \
        torch numpy pillow safetensors pydantic rich setuptools wheel pybind11 ninja \
        starlette uvicorn openimageio rawpy pydicom nibabel
COPY . .
RUN . /opt/denoise/bin/activate && \
    DENOISE_EXT_CUDA=0 pip install --no-cache-dir --no-build-isolation --no-deps .

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 denoise && \
    apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/denoise /opt/denoise
ENV PATH=/opt/denoise/bin:$PATH PYTHONUNBUFFERED=1
USER denoise
WORKDIR /home/denoise
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"
ENTRYPOINT ["denoise-ext", "serve", "--host", "0.0.0.0"]
