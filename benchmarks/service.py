"""Images a second of `denoise-ext serve` with 1, 4 and 16 clients, beside direct calls.

    python benchmarks/service.py                 # about 2 minutes; nothing else should run
    python benchmarks/service.py --images 64
    python benchmarks/service.py --dry-run       # 64x64, few images: does everything work?

The pictures are 768x512, colour, as PNG files.  "Denoiser" is a process that reads, denoises and
writes each of them in turn: the work of the service, without HTTP and without overlap.  The service
is a process of its own.  Its clients are threads of a third one, each with a connection that is
kept.  All take turns, and have the same number of threads for kernels.  The results are compared
first: the bytes are the same.

Processor time is that of the process that denoises, for each image.  It counts where other programs
share the machine.  Target: at least 0.9 of the images a second of the direct calls.
"""

from __future__ import annotations

import argparse
import http.client
import io as streams
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import denoise_ext
from denoise_ext import io
from denoise_ext._timing import busy_seconds

HERE = Path(__file__).resolve().parent
PHOTOGRAPH = Path(denoise_ext.__file__).parent / "assets" / "kodim21.png"
CLIENTS, SIGMA, TARGET = (1, 4, 16), 25.0, 0.9
DIRECT = "Denoiser"
# Denoises as many images as each line of its input states; writes seconds and processor seconds.
DIRECT_PROGRAM = """
import io as streams, sys, time
from denoise_ext import Denoiser, io
body = open(sys.argv[1], "rb").read()
denoiser = Denoiser(sigma=float(sys.argv[2]))
def once():
    out = streams.BytesIO()
    io.write_picture(out, denoiser.run(io.read_picture(body)).image)
    return out.getvalue()
open(sys.argv[3], "wb").write(once())
print("ready", flush=True)
for line in sys.stdin:
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        once()
    print(time.perf_counter() - start, time.process_time() - cpu, flush=True)
"""


def noisy_picture(side: int | None) -> bytes:
    """The bundled photograph with noise, as PNG."""
    clean = io.read_image(PHOTOGRAPH)[:side, :side]
    noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    out = streams.BytesIO()
    pixels = (clean + noise).clip(0, 255).round().astype(np.uint8)
    io.write_picture(out, io.picture_of(pixels, format="PNG"))
    return out.getvalue()


class Direct:
    """A process that calls a Denoiser."""

    def __init__(self, folder: Path, body: bytes, environment: dict[str, str]) -> None:
        source, self._first = folder / "in.png", folder / "direct.png"
        source.write_bytes(body)
        command = [sys.executable, "-c", DIRECT_PROGRAM, str(source), str(SIGMA), str(self._first)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout.readline() == "ready\n", "the process of the Denoiser failed"

    def result(self) -> bytes:
        return self._first.read_bytes()

    def run(self, images: int) -> tuple[float, float]:
        """Seconds and processor seconds for so many images."""
        self.process.stdin.write(f"{images}\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self.process.stdout.readline().split())
        return wall, cpu


class Service:
    """A process of the service."""

    def __init__(self, body: bytes, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "denoise_ext.cli", "serve", "--port", "0", "--quiet"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        address = self.process.stdout.readline().strip()
        self._port, self._body = int(address.rstrip("/").rpartition(":")[2]), body

    def ask(self, connection: http.client.HTTPConnection) -> bytes:
        while True:
            connection.request("POST", f"/v1/denoise?sigma={SIGMA:g}", self._body)
            response = connection.getresponse()
            content = response.read()
            if response.status == 200:
                return content
            if response.status != 429:
                raise SystemExit(f"status {response.status}: {content!r}")
            time.sleep(0.05)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)

    def result(self) -> bytes:
        return self.ask(self.connection())

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, images: int, clients: int) -> tuple[float, float]:
        """Seconds and processor seconds for so many images of so many clients."""
        left = threading.Semaphore(images)

        def client() -> None:
            connection = self.connection()
            while left.acquire(blocking=False):
                self.ask(connection)

        threads = [threading.Thread(target=client) for _ in range(clients)]
        start, cpu = time.perf_counter(), self._processor_seconds()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start, self._processor_seconds() - cpu


def measured(
    contenders: dict[str, Callable[[int], tuple[float, float]]], images: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Images a second and processor seconds for each image, in turns."""
    times = {name: {"images_per_second": [], "processor_seconds": []} for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = contenders[name](images)
            times[name]["images_per_second"].append(images / wall)
            times[name]["processor_seconds"].append(cpu / images)
    return times


def run(args: argparse.Namespace, folder: Path) -> dict:
    body = noisy_picture(64 if args.dry_run else None)
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    )
    direct, service = Direct(folder, body, environment), Service(body, environment)
    try:
        if direct.result() != service.result():
            raise SystemExit("the two results are not the same file")
        contenders = {DIRECT: direct.run}
        for clients in CLIENTS:
            name = f"service, {clients} client" + ("s" if clients > 1 else "")
            contenders[name] = lambda images, clients=clients: service.run(images, clients)
        images, rounds = (16, 1) if args.dry_run else (args.images, args.rounds)
        everyone, own, start = busy_seconds(), sum(os.times()[:4]), time.perf_counter()
        times = measured(contenders, images, rounds)
        load = None
        if everyone is not None:
            used = sum(os.times()[:2]) - own + sum(
                images * sum(one["processor_seconds"]) for one in times.values()
            )  # fmt: skip
            load = max(0.0, busy_seconds() - everyone - used) / (time.perf_counter() - start)
    finally:
        for process in (direct.process, service.process):
            process.terminate()
            process.wait()
    medians = {
        name: {key: statistics.median(values) for key, values in one.items()}
        for name, one in times.items()
    }
    return {
        "processor": denoise_ext.info()["cpu"]["processor"],
        "torch": torch.__version__,
        "threads": args.threads,
        "images": images,
        "other_load_cores": load,
        "times": times,
        "median": medians,
        "target": TARGET,
    }


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32, help="in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "service.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(args, Path(folder))
    best = results["median"][DIRECT]
    for name, one in results["median"].items():
        print(
            f"{name:<20}{one['images_per_second']:7.2f} images/s"
            f"{one['images_per_second'] / best['images_per_second']:7.2f} of the direct calls"
            f"{one['processor_seconds']:8.3f} s of processor time for each"
        )
    if results["other_load_cores"] is not None:
        print(f"other programs used {results['other_load_cores']:.1f} cores meanwhile")
    if not args.dry_run:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
