"""The HTTP API of `denoise-ext serve`: a real server, asked by real clients."""

from __future__ import annotations

import io as streams
import json
import re

import numpy as np
import pytest
from live_service import LiveService, file_of, live_service, noisy_image
from picture_files import KINDS, whole_file

from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
pytestmark = [
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
    pytest.mark.xdist_group("service_api"),
]

# --- results ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "options", "sigma"),
    [
        ("", {}, None),
        ("?sigma=20", {}, 20.0),
        ("?sigma=20&strength=0.5", {"strength": 0.5}, 20.0),
        ("?model=ffdnet_color_small&sigma=20", {"model": "ffdnet_color_small"}, 20.0),
        ("?model=ffdnet_color_small", {"model": "ffdnet_color_small"}, None),
        ("?model=dxnet_s_photo", {"model": "dxnet_s_photo"}, None),
    ],
)
def test_the_result_is_that_of_a_denoiser(service, query, options, sigma):
    image = noisy_image(70, 91)
    direct = Denoiser(**options).run(image, sigma)
    answer = service.denoise(file_of(image), query)
    np.testing.assert_array_equal(answer.picture.frames[0], direct.image)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers.get("Denoise-Treatment", "") == direct.treatment
    level = answer.headers["Denoise-Sigma"]
    assert (
        direct.sigma is None
        if level is None
        else float(level) == pytest.approx(direct.sigma, rel=1e-3)
    )
    for stage in ("receive", "wait", "read", "denoise", "write"):
        assert f"{stage};dur=" in answer.headers["Server-Timing"]


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith(("DICOM", "NIF"))])
def test_every_format_comes_back_with_its_metadata(service, name):
    if name == "EXR":
        pytest.importorskip("OpenImageIO")
    for kind in KINDS[name]:
        if kind == "rgba uint16":
            pytest.importorskip("OpenImageIO")
        body = whole_file(name, kind)
        before, after = io.read_picture(body), service.denoise(body, "?sigma=9").picture
        assert after.format == name
        assert after.metadata == before.metadata or name in ("JPEG", "WEBP")
        assert after.metadata.icc_profile == before.metadata.icc_profile
        assert after.metadata.exif == before.metadata.exif
        [one], [other] = before.frames, after.frames
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_sixteen_bits_stay_sixteen(service):
    image = noisy_image(40, 50, dtype="uint16")[..., 0]
    answer = service.denoise(file_of(image, "TIFF"), "?sigma=15")
    np.testing.assert_array_equal(answer.picture.frames[0], Denoiser(sigma=15.0)(image))
    assert answer.headers["Content-Type"] == "image/tiff"


def test_another_format(service):
    answer = service.denoise(file_of(noisy_image(20, 30)), "?format=tif&strength=0")
    assert answer.picture.format == "TIFF" and answer.headers["Denoise-Suffix"] == ".tif"
    np.testing.assert_array_equal(answer.picture.frames[0], noisy_image(20, 30))
    answer = service.denoise(file_of(noisy_image(20, 30, dtype="uint16"), "TIFF"), "?format=jpg")
    assert answer.status == 422 and "JPEG" in answer.error


def test_pages_and_axes(service):
    pages = noisy_image(24, 32)[..., 0], noisy_image(24, 32, 1)[..., 0]
    stack = io.Picture(pages, (0, 255), "gray", "TIFF")
    out = streams.BytesIO()
    io.write_picture(out, stack)
    assert len(service.denoise(out.getvalue()).picture.frames) == 2
    out = streams.BytesIO()
    np.save(out, noisy_image(24, 32)[..., :1].repeat(5, axis=2))
    refused = service.denoise(out.getvalue())
    assert refused.status == 422 and "axes" in refused.error
    taken = service.denoise(out.getvalue(), "?axes=YXC&sigma=10").picture
    assert taken.shapes == ((24, 32, 5),)


def test_a_body_without_a_length(service):
    """Chunked, as programs send what they do not know the size of."""
    body = file_of(noisy_image(30, 40))
    connection = service.connection()
    chunks = (body[i : i + 999] for i in range(0, len(body), 999))
    connection.request("POST", "/v1/denoise?strength=0", chunks, encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    response = connection.getresponse()
    assert response.status == 200
    picture = io.read_picture(response.read())
    np.testing.assert_array_equal(picture.frames[0], noisy_image(30, 40))


# --- analysis and parts ----------------------------------------------------------------------


def test_analysis_and_parts(service):
    image = noisy_image(300, 420)
    found = service.ask("POST", "/v1/analyse?keep=true", file_of(image)).json
    direct = Denoiser().run(image)
    assert (found["width"], found["height"], found["format"]) == (420, 300, "PNG")
    assert found["treatment"] == direct.treatment and found["model"] in direct.treatment
    assert found["noise"]["kind"] == direct.noise[0].kind
    assert found["sigma"] == pytest.approx(direct.sigma, abs=0.01)
    assert len(found["id"]) >= 22  # 128 bits, which nobody guesses
    part = f"/v1/pictures/{found['id']}/part"
    place = "?left=150&top=100&width=90&height=64"
    rows, columns = slice(100, 164), slice(150, 240)
    original = service.get(f"{part}{place}&original=true").picture.frames[0]
    np.testing.assert_array_equal(original, image[rows, columns])
    # Winograd rounds blocks of pixels together: a level may differ by one where it is a tie.
    for query, expected in (("", direct.image), ("&sigma=25", Denoiser(sigma=25.0)(image))):
        answer = service.get(part + place + query)
        difference = answer.picture.frames[0].astype(int) - expected[rows, columns]
        assert abs(difference).max() <= 1 and (difference != 0).mean() < 1e-3
    reduced = service.get(f"{part}{place}&reduce=4&original=true").picture.frames[0]
    means = image[rows, columns][:, :88].reshape(16, 4, 22, 4, 3).mean((1, 3))
    assert reduced.shape == (16, 23, 3) and abs(reduced[:, :22] - means).max() <= 0.5
    outside = service.get(f"{part}?left=0&top=0&width=421&height=1")
    assert outside.status == 422 and "420 x 300" in outside.error
    assert service.ask("DELETE", f"/v1/pictures/{found['id']}").status == 204
    assert service.get(part + place).status == 404


def test_uncertainty_of_a_part(service):
    image = noisy_image(300, 420)
    found = service.ask("POST", "/v1/analyse?keep=true", file_of(image)).json
    part = f"/v1/pictures/{found['id']}/part?left=0&top=0&width=420&height=300"
    answer = service.get(part + "&uncertainty=true")
    scale = int(answer.headers["Denoise-Uncertainty-Scale"])
    shown = answer.picture.frames[0]
    direct = Denoiser(uncertainty=2).run(image)
    deviation = np.sqrt(np.square(direct.uncertainty).mean(axis=2))
    # The whole picture is the window, so the probes are the same. Winograd's rounding is divided
    # by the step of the probes: a few levels of the map here and there.
    assert shown.shape == (300, 420) and shown.dtype == np.uint8
    assert np.median(abs(shown - scale * deviation)) < 1
    assert float(answer.headers["Denoise-Interval-90"]) == pytest.approx(
        direct.interval_90, rel=1e-3
    )
    assert service.get(part + "&uncertainty=true&reduce=4").picture.frames[0].shape == (75, 105)
    for query, words in (
        ("&uncertainty=true&sigma=40", ["uncertainty", "40.0"]),
        ("&uncertainty=true&model=dxnet_s_photo", ["itself"]),
        ("&uncertainty=true&original=true", ["uncertainty", "original"]),
    ):
        refused = service.get(part + query)
        assert refused.status == 422
        assert all(word in refused.error for word in words), refused.error


def test_what_the_page_shows_of_other_pictures(service):
    """Upright, with 16 bits and an orientation; tiny; without keeping."""
    body = whole_file("TIFF", "rgb uint16")  # orientation 6, 7 x 11 stored
    found = service.ask("POST", "/v1/analyse?keep=true", body).json
    assert (found["width"], found["height"], found["dtype"]) == (7, 11, "uint16")
    assert found["noise"] is None and found["written_as"] == ".tif"
    part = f"/v1/pictures/{found['id']}/part?left=0&top=0&width=7&height=11"
    shown = service.get(part + "&original=true").picture
    upright = np.rot90(io.read_picture(body).frames[0], -1)
    np.testing.assert_array_equal(shown.frames[0], (upright / 257).round())
    assert shown.metadata.icc_profile is not None
    assert service.get(part).status == 200
    assert "id" not in service.ask("POST", "/v1/analyse", body).json


# --- what operates it ------------------------------------------------------------------------


def test_health_and_metrics(service):
    assert service.get("/healthz").json == {"status": "ok"}
    before = service.metrics()
    service.denoise(file_of(noisy_image(10, 12)), "?strength=0")
    service.denoise(b"x")
    after = service.metrics()
    name = 'denoise_ext_requests_total{method="POST",route="/v1/denoise",status="%d"}'
    assert after[name % 200] == before.get(name % 200, 0) + 1
    assert after[name % 415] == before.get(name % 415, 0) + 1
    assert after["denoise_ext_images_total"] == before["denoise_ext_images_total"] + 1
    assert after["denoise_ext_pixels_total"] == before["denoise_ext_pixels_total"] + 120
    stage = 'denoise_ext_stage_seconds_%s{stage="denoise"%s}'
    assert after[stage % ("count", "")] == after[stage % ("bucket", ',le="+Inf"')]
    types = service.get("/metrics").body.decode()
    for metric in {key.partition("{")[0] for key in after}:
        base = metric.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        assert f"# TYPE {base} " in types or f"# TYPE {metric} " in types


def test_the_description_names_every_path(service):
    from denoise_ext.service.app import Service
    from denoise_ext.service.options import ServiceOptions

    document = service.get("/openapi.json").json
    described = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item
    }
    served = {
        (route.path, method)
        for route in Service(ServiceOptions()).routes()
        for method in route.methods - {"HEAD"}
    }
    pages = {entry for entry in served if entry[0] == "/" or entry[0].startswith("/page/")}
    assert described == served - pages and pages
    jsonschema = pytest.importorskip("jsonschema")
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                jsonschema.Draft202012Validator.check_schema(parameter["schema"])
    assert json.dumps(document).isascii()


def test_every_page_file_is_served_and_needs_nothing_from_elsewhere(service):
    page = service.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', page.body.decode())
    assert {"page/main.js", "page/style.css", "page/icon.svg"} <= set(names)
    for name in {*names, "page/api.js", "page/layer.js", "page/viewer.js"}:
        file = service.get(f"/{name}")
        assert file.status == 200
        again = service.get(f"/{name}", **{"If-None-Match": file.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
        addresses = re.findall(rb"https?://[^\"' ]+", file.body)
        assert set(addresses) <= {b"http://www.w3.org/2000/svg"}, name
    assert not re.findall(rb"https?://", page.body)


def test_models_and_sample(service):
    models = service.get("/v1/models").json["models"]
    names = {model["name"] for model in models}
    assert {"auto", "dxnet_s", "ffdnet_gray_small"} <= names
    assert [model["name"] for model in models if model["default"]] == ["auto"]
    sample = service.get("/v1/sample").picture.frames[0]
    assert sample.shape == (512, 768, 3)


def test_a_model_of_the_command(tmp_path):
    with live_service("--model", "ffdnet_gray_small", "--precision", "strict") as running:
        models = {model["name"]: model for model in running.get("/v1/models").json["models"]}
        assert models["ffdnet_gray_small"]["default"]
        image = noisy_image(40, 50)[..., 0]
        result = running.denoise(file_of(image), "?sigma=15").picture.frames[0]
        direct = Denoiser("ffdnet_gray_small", sigma=15.0, precision="strict")
        np.testing.assert_array_equal(result, direct(image))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nonsense"], ["model", "nonsense"]),
        (["--host", "no.such.host.invalid"], ["host", "no.such.host.invalid"]),
        (["--port", "99999999"], ["port"]),
        (["--max-upload", "5"], ["--max-upload"]),
        (["--token", ""], ["token"]),
        (["--device", "abacus"], ["device", "abacus"]),
        (["--name", "https://a.example"], ["name", "https://a.example"]),
        (["--name", "a.example:80"], ["name", "a.example:80"]),
        (["--name", ""], ["name", "''"]),
    ],
)
def test_wrong_options_end_it_at_once(capsys, arguments, words):
    from command_line import run

    code, out, err = run(capsys, "serve", "--port", "0", *arguments)
    assert code in (1, 2) and out == ""
    assert all(word in err for word in words), err


def test_a_port_in_use(service: LiveService, capsys):
    from command_line import run

    code, _, err = run(capsys, "serve", "--port", str(service.port))
    assert code == 2 and str(service.port) in err and len(err.splitlines()) == 1
