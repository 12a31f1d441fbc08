"""The HTTP API of `denoise-ext serve`: a real server, asked by real clients."""

from __future__ import annotations

import io as streams
import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import bomb
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

TOKEN = "a secret: 7f3a"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def service():
    with live_service() as running:
        yield running


@pytest.fixture(scope="module")
def strict():
    """Small limits and a token, which the environment gives."""
    limits = ("--max-upload", "200KB", "--max-pixels", "40000")
    with live_service(*limits, "--quiet", DENOISE_EXT_TOKEN=TOKEN) as running:
        yield running


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
    import io as streams

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


# --- refusals --------------------------------------------------------------------------------


def npy_of(stack: np.ndarray) -> bytes:
    stream = streams.BytesIO()
    np.save(stream, stack)
    return stream.getvalue()


GOOD = file_of(noisy_image(10, 12))
TINY_FRAMES = npy_of(np.zeros((60_000, 1, 8), np.uint8))
# name: (method, path, body, headers, status, words of the error)
REFUSED = {
    "sigma": ("POST", "/v1/denoise?sigma=loud", GOOD, {}, 400, ["sigma", "loud"]),
    "negative sigma": ("POST", "/v1/denoise?sigma=-1", GOOD, {}, 400, ["sigma", "-1"]),
    "sigma nan": ("POST", "/v1/denoise?sigma=nan", GOOD, {}, 400, ["sigma", "nan"]),
    "strength": ("POST", "/v1/denoise?strength=2", GOOD, {}, 400, ["strength", "2", "0 to 1"]),
    "twice": ("POST", "/v1/denoise?sigma=1&sigma=2", GOOD, {}, 400, ["sigma", "twice"]),
    "unknown": ("POST", "/v1/denoise?sgima=1", GOOD, {}, 400, ["sgima", "sigma"]),
    "model": ("POST", "/v1/denoise?model=dnxet_s", GOOD, {}, 400, ["model", "dnxet_s", "dxnet_s"]),
    "a file": ("POST", "/v1/denoise?model=/etc/passwd", GOOD, {}, 400, ["model", "/etc/passwd"]),
    "format": ("POST", "/v1/denoise?format=exe", GOOD, {}, 400, ["format", "exe"]),
    "range": ("POST", "/v1/denoise?value_range=9,1", GOOD, {}, 400, ["value_range", "9,1"]),
    "axes": ("POST", "/v1/denoise?axes=QQ", GOOD, {}, 400, ["axes", "QQ"]),
    "empty": ("POST", "/v1/denoise", b"", {}, 400, ["empty"]),
    "text": ("POST", "/v1/denoise", b"no image at all", {}, 415, ["not an image"]),
    "truncated": ("POST", "/v1/denoise", GOOD[:60], {}, 415, ["PNG"]),
    "form": ("POST", "/v1/denoise", GOOD, {"Content-Type": "multipart/form-data; boundary=x"}, 415,
             ["form"]),
    "bomb": ("POST", "/v1/denoise", bomb(), {}, 413, ["60000", "max_pixels"]),
    "method": ("GET", "/v1/denoise", None, {}, 405, ["Method"]),
    "path": ("GET", "/v1/../etc/passwd", None, {}, 404, ["Not Found"]),
    "no picture": ("GET", "/v1/pictures/x/part?left=0&top=0&width=1&height=1", None, {}, 404,
                   ["kept"]),
    "no place": ("GET", "/v1/pictures/x/part?left=0", None, {}, 400, ["top", "missing"]),
    "another host": ("GET", "/", None, {"Host": "evil.example"}, 421, ["localhost"]),
    "another page": ("POST", "/v1/denoise", GOOD, {"Origin": "https://a.example"}, 403, ["page"]),
    "no page": ("POST", "/v1/denoise", GOOD, {"Origin": "null"}, 403, ["page"]),
    "malformed origin": ("GET", "/healthz", None, {"Origin": "http://[bad"}, 403, ["page"]),
    "huge sigma": ("POST", "/v1/denoise?sigma=1e308", GOOD, {}, 400, ["sigma"]),
    "many tiny frames": ("POST", "/v1/denoise", TINY_FRAMES, {}, 413, ["60000 frames"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(service, case):
    method, path, body, headers, status, words = REFUSED[case]
    answer = service.ask(method, path, body, headers)
    assert answer.status == status, answer.body
    assert all(word in answer.error for word in words), answer.error
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_kept_picture_holds_its_first_frame_alone():
    from denoise_ext.service.pictures import looked_at

    picture = io.read_picture(npy_of(np.zeros((500, 64, 64), np.uint8)))
    large = replace(picture.metadata, exif=bytes(1 << 20), native=object())
    looked, _ = looked_at(replace(picture, metadata=large), {})
    [frame] = looked.picture.frames
    assert frame.base is None and frame.nbytes <= looked.size <= frame.nbytes + (1 << 15)
    assert looked.picture.metadata == io.Metadata()


def test_a_network_that_does_not_fit(service):
    gray = file_of(noisy_image(40, 40)[..., 0])
    answer = service.denoise(gray, "?model=dxnet_s_photo")
    assert answer.status == 422 and "gray" in answer.error


def test_limits_of_size(strict):
    large = file_of(noisy_image(210, 210))  # 44100 pixels in 130 kB
    answer = strict.denoise(large, **WITH_TOKEN)
    assert answer.status == 413 and "40000" in answer.error
    answer = strict.denoise(bytes(200_001), **WITH_TOKEN)
    assert answer.status == 413 and "200000" in answer.error
    assert strict.metrics(**WITH_TOKEN)["denoise_ext_body_bytes"] == 0


def test_a_length_that_is_a_lie_is_refused_before_the_body(strict):
    """The answer comes though not a byte of the body was sent."""
    connection = strict.connection()
    connection.putrequest("POST", "/v1/denoise")
    for name, value in {**WITH_TOKEN, "Content-Length": str(10**15)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413 and response.headers["Connection"] == "close"


def test_a_body_that_never_ends_is_cut_off(strict):
    connection = strict.connection()

    def endless():
        while True:
            yield bytes(50_000)

    with pytest.raises(OSError):  # the service closes the connection while we send
        connection.request("POST", "/v1/denoise", endless(), encode_chunked=True,
                           headers={**WITH_TOKEN, "Transfer-Encoding": "chunked"})  # fmt: skip
        raise OSError(connection.getresponse().status)
    strict.until("denoise_ext_body_bytes", 0, **WITH_TOKEN)


# --- token -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_wrong_tokens(strict, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (("POST", "/v1/denoise"), ("GET", "/v1/models"), ("GET", "/metrics")):
        answer = strict.ask(method, path, headers=headers)
        assert answer.status == 401 and "token" in answer.error
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_right_token(strict):
    assert strict.denoise(GOOD, "?strength=0", **WITH_TOKEN).status == 200
    assert strict.metrics(**WITH_TOKEN)
    for path in ("/", "/page/main.js", "/healthz", "/openapi.json"):  # nothing secret
        assert strict.get(path).status == 200
    assert strict.get("/openapi.json").json["security"] == [{"token": []}]


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--host", "0.0.0.0", "--token", TOKEN)])
def test_names_of_a_reverse_proxy(arguments):
    """What a page of an attacker's own name sends is refused, at every address."""
    names = ("--name", "pictures.example.org", "--name", "Other.example")
    with live_service(*names, *arguments) as running:
        port = running.port

        def status(host, origin=None):
            headers = {"Host": host} | ({"Origin": origin} if origin else {})
            return running.get("/healthz", **headers).status

        for host in ("pictures.example.org", "PICTURES.example.org:443", "other.example",
                     f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):  # fmt: skip
            assert status(host) == 200, host
        for host in ("evil.example", "pictures.example.org.evil.example", "example.org", "",
                     "pictures.example.org@evil.example", "[bad", "10.0.0.9"):  # fmt: skip
            assert status(host) == 421, host
        # A proxy may pass another host than the page has.
        assert status(f"127.0.0.1:{port}", "https://pictures.example.org") == 200
        assert status("pictures.example.org", "https://pictures.example.org") == 200
        for origin in ("https://evil.example", "null", "https://[bad",
                       "https://pictures.example.org@evil.example"):  # fmt: skip
            assert status("pictures.example.org", origin) == 403, origin
        refused = running.get("/healthz", Host="evil.example")
        assert "pictures.example.org" in refused.error and "--name" in refused.error


# --- what operates it ------------------------------------------------------------------------


def test_health_and_metrics(service):
    assert service.get("/healthz").json == {"status": "ok"}
    before = service.metrics()
    service.denoise(GOOD, "?strength=0")
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
    statuses = {case[4] for case in REFUSED.values() if case[1].startswith("/v1/denoise")} - {405}
    assert statuses <= set(map(int, document["paths"]["/v1/denoise"]["post"]["responses"]))
    assert json.dumps(document).isascii()


def test_every_page_file_is_served_and_needs_nothing_from_elsewhere(service):
    import re

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
