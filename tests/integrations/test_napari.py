"""A layer in, a layer out; with napari itself where it is installed."""

from __future__ import annotations

import inspect
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import denoise_ext
from denoise_ext import Denoiser
from denoise_ext._loader import native_error
from denoise_ext.integrations.napari import denoise_layer

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
MANIFEST = Path(denoise_ext.__file__).parent / "integrations/napari.yaml"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def layer(data: np.ndarray, rgb: bool = False, multiscale: bool = False) -> SimpleNamespace:
    settings = {"name": "cells", "rgb": rgb, "scale": (1.0,) * data.ndim, "colormap": "gray"}
    return SimpleNamespace(
        rgb=rgb, multiscale=multiscale, as_layer_data_tuple=lambda: (data, settings, "image")
    )


def pixels(*shape: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 20, shape)
    return (128 + noise).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(48, 64), (3, 48, 64), (2, 2, 48, 64)])
def test_every_picture_of_a_stack(shape):
    x = pixels(*shape)
    clean, settings, kind = denoise_layer(layer(x), automatic=False, sigma=20.0)
    assert (clean.shape, clean.dtype, kind) == (x.shape, x.dtype, "image")
    expected = Denoiser(sigma=20.0)(x.reshape(-1, 48, 64)[0])
    assert np.abs(clean.reshape(-1, 48, 64)[0].astype(int) - expected).max() <= 1
    assert settings["name"] == "cells denoised"
    assert settings["scale"] == (1.0,) * x.ndim and settings["colormap"] == "gray"


def test_colours_and_automatic_noise():
    x = pixels(48, 64, 3)
    clean, _, _ = denoise_layer(layer(x, rgb=True))
    assert clean.std() < 0.3 * x.std()
    assert np.array_equal(denoise_layer(layer(x, rgb=True), strength=0.0)[0], x)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_other_types_span_their_values(dtype):
    x = (40 * pixels(48, 64).astype(np.int64) - 3000).astype(dtype)
    clean, _, _ = denoise_layer(layer(x))
    assert clean.dtype == dtype and clean.std() < 0.3 * x.std()
    assert abs(clean.mean() - x.mean()) < 20
    flat = np.full((40, 40), 7, dtype)
    assert np.array_equal(denoise_layer(layer(flat))[0], flat)


def test_several_resolutions_are_refused():
    with pytest.raises(ValueError, match="layer"):
        denoise_layer(layer(pixels(48, 64), multiscale=True))


@pytest.mark.parametrize(
    "pixels",
    [np.full((40, 40), np.nan), np.array([[0.0, np.inf]] * 40), np.zeros((0, 40, 40), np.uint8)],
    ids=["nan", "inf", "empty"],
)
def test_layers_without_a_range_are_refused(pixels):
    with pytest.raises(ValueError, match=r"^layer must have"):
        denoise_layer(layer(pixels))


def test_the_manifest_names_what_exists():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    commands = {command["id"]: command for command in manifest["contributions"]["commands"]}
    for widget in manifest["contributions"]["widgets"]:
        module, name = commands[widget["command"]]["python_name"].split(":")
        assert callable(getattr(import_module(module), name))
    if PROJECT.is_file():
        project = tomllib.loads(PROJECT.read_text())["project"]
        assert project["name"] == manifest["name"]
        [[plugin, place]] = project["entry-points"]["napari.manifest"].items()
        package, file = place.split(":")
        assert plugin == manifest["name"] and MANIFEST.name == file
        assert Path(import_module(package).__file__).parent == MANIFEST.parent


def test_types_are_napari_names():
    parameters = inspect.signature(denoise_layer).parameters
    assert parameters["layer"].annotation == "napari.layers.Image"
    assert denoise_layer.__annotations__["return"] == "napari.types.LayerDataTuple"


def test_with_napari_itself():
    layers = pytest.importorskip("napari.layers", reason="needs napari")
    x = pixels(3, 48, 64)
    image = layers.Image(x, name="cells", scale=(2, 0.3, 0.3), colormap="green")
    clean = layers.Layer.create(*denoise_layer(image, automatic=False, sigma=20.0))
    assert isinstance(clean, layers.Image) and clean.name == "cells denoised"
    assert np.array_equal(clean.scale, image.scale) and clean.colormap.name == "green"
    assert clean.data.std() < 0.3 * x.std() and np.array_equal(image.data, x)
    colours = layers.Image(pixels(48, 64, 3), rgb=True)
    assert layers.Layer.create(*denoise_layer(colours)).rgb


def test_the_manifest_is_napari_s():
    npe2 = pytest.importorskip("npe2", reason="needs npe2")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    [widget] = manifest.contributions.widgets
    assert widget.autogenerate and widget.command == "denoise_ext.denoise_layer"
