"""What `denoise-ext serve` refuses: bad requests, too much, no token, the names of others."""

from __future__ import annotations

import io as streams
from dataclasses import replace

import numpy as np
import pytest
from command_line import bomb
from live_service import TOKEN, WITH_TOKEN, file_of, live_service, noisy_image

from denoise_ext import io
from denoise_ext._loader import native_error

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
pytestmark = [
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
    pytest.mark.xdist_group("service_api"),
]

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


def test_the_description_has_the_statuses(service):
    responses = service.get("/openapi.json").json["paths"]["/v1/denoise"]["post"]["responses"]
    statuses = {case[4] for case in REFUSED.values() if case[1].startswith("/v1/denoise")} - {405}
    assert statuses <= set(map(int, responses))


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
    assert response.status == 413


def test_a_client_that_sends_all_of_a_large_body_gets_the_answer(strict):
    connection = strict.connection()
    for _ in range(3):  # on one connection
        connection.request("POST", "/v1/denoise", bytes(40_000_000), headers=WITH_TOKEN)
        response = connection.getresponse()
        assert response.status == 413 and b"200000" in response.read()
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200


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


@pytest.mark.rotates()
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


def test_a_model_that_needs_a_guide_starts_no_service():
    from denoise_ext.service import ServiceOptions
    from denoise_ext.service.networks import Networks

    with pytest.raises(ValueError, match="guide is required"):
        Networks(ServiceOptions(model="joint_bilateral"))
