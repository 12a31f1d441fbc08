"""docs/models.md's family of one's own, from its file to evaluated weights; entry points."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import HAVE_NATIVE, run

from denoise_ext import io
from denoise_ext.models import (
    ImageDenoiser,
    create_model,
    register_architecture,
    register_model,
    registry,
)
from denoise_ext.models.dncnn import DnCNN

PAGE = Path(__file__).resolve().parents[2] / "docs/models.md"
NATIVE = pytest.mark.skipif(not HAVE_NATIVE, reason="native library missing")


def block(heading: str, language: str, page: Path = PAGE) -> str:
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.S)[1]


@pytest.fixture
def names(monkeypatch):
    """The registry, put back afterwards."""
    for table in ("_architectures", "_models", "_pretrained"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


@pytest.fixture
def place(tmp_path, monkeypatch, names):
    """A folder with my_net.py, recipe.toml and pictures."""
    (tmp_path / "my_net.py").write_text(block("A family of your own", "python"))
    (tmp_path / "recipe.toml").write_text(block("A family of your own", "toml"))
    (tmp_path / "images").mkdir()
    rows, columns = np.mgrid[:64, :64]
    for i in range(3):
        waves = 120 + 60 * np.sin(rows / 5 + i) * np.cos(columns / 7)
        io.write_image(tmp_path / "images" / f"{i}.png", waves.astype(np.uint8))
    io.write_image(tmp_path / "photo.png", io.read_image(tmp_path / "images/0.png"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    monkeypatch.delenv("DENOISE_EXT_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    yield tmp_path
    sys.modules.pop("my_net", None)


@NATIVE
@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_the_example_trains_denoises_and_evaluates(place, capsys):
    for line in block("A family of your own", "bash").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "denoise-ext"
        code, out, err = run(capsys, *arguments)
        assert code == 0, (line, err)
    assert "average of 3" in out
    header = json.loads(registry_metadata(place / "run/model.safetensors")["config"])
    assert header["family"] == "my_net"
    clean = io.read_image(place / "clean.png")
    assert clean.shape == (64, 64)
    # A process that does not import the module reads nothing, and names option and family.
    code = subprocess.run(
        [sys.executable, "-m", "denoise_ext.cli", "denoise", "photo.png", "-o", "no.png",
         "--model", "run/model.safetensors"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert code.returncode == 2 and not (place / "no.png").exists()
    for word in ("my_net", "--import", "run/model.safetensors"):
        assert word in code.stderr
    assert len(code.stderr.strip().splitlines()) == 1


def registry_metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_models_lists_it_beside_the_others(place, capsys):
    code, out, _ = run(capsys, "models", "*_net_*", "--json", "--import", "my_net")
    [facts] = json.loads(out)
    assert code == 0
    assert (facts["name"], facts["family"], facts["needs_sigma"]) == ("my_net_gray", "my_net", True)
    assert facts["receptive_field"] == 7


def test_a_broken_network_is_left_out_of_the_list(place, capsys):
    (place / "half_net.py").write_text(
        "from denoise_ext.models import register_model\n"
        "from my_net import MyNet\n\n"
        "@register_model\n"
        "def my_net_broken(**options):\n"
        "    raise KeyError('weights')\n\n"
        "class Sorting(MyNet):\n"
        "    def denoise(self, x, noise_map):\n"
        "        return x.sort(2).values\n\n"
        "@register_model\n"
        "def my_net_sorting(**options):\n"
        "    return Sorting()\n"
    )
    code, out, err = run(capsys, "models", "my_net*", "--json", "--import", "half_net")
    assert code == 0
    facts = {model["name"]: model for model in json.loads(out)}
    assert set(facts) == {"my_net_gray", "my_net_sorting"}
    assert facts["my_net_gray"]["geometry_unknown"] is None
    assert "sort" in facts["my_net_sorting"]["geometry_unknown"]
    [line] = err.strip().splitlines()
    assert "my_net_broken" in line and "KeyError" in line


@pytest.mark.parametrize("command", ["models", "denoise", "video", "evaluate", "train", "export"])
def test_a_failing_import_is_one_line(place, capsys, command):
    (place / "broken_net.py").write_text("raise OSError('no\\nlibrary')")
    more = {
        "denoise": ["a.png", "-o", "b.png"], "video": ["a.mkv", "b.mkv"], "train": ["recipe.toml"],
        "export": ["x", "-o", "y.onnx"], "evaluate": ["a.png"],
    }.get(command, [])  # fmt: skip
    for module, reason in (
        ("broken_net", "OSError: no"),
        ("no_such_net", "No module named"),
        ("my_net.py", "a module's name"),
        ("nets/my_net", "a module's name"),
    ):
        code, _, err = run(capsys, command, *more, "--import", module)
        assert code == 2 and len(err.strip().splitlines()) == 1
        assert "--import" in err and module in err and reason in err


@NATIVE
def test_the_current_folder_hides_no_installed_module(place, capsys):
    (place / "json.py").write_text("raise SystemError")
    code, _, err = run(capsys, "models", "dxnet*", "--import", "json", "--import", "my_net")
    assert code == 0, err


def test_ray_takes_no_import(place, capsys):
    arguments = ["photo.png", "-o", "out/", "--engine", "ray", "--import", "my_net"]
    code, _, err = run(capsys, "denoise", *arguments)
    assert code == 2 and "--import" in err and "ray" in err


# --- entry points ---


def install(folder: Path, name: str, module: str, text: str) -> None:
    """A distribution on the path, as pip would leave it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[denoise_ext.models]\n{module} = {module}\n")
    (folder / f"{module}.py").write_text(text)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "denoise_ext.cli", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.rotates(turn=1, turns=2)
@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_entry_points_register_families_and_broken_ones_are_named(tmp_path):
    install(tmp_path, "their-nets", "their_nets", block("A family of your own", "python"))
    install(tmp_path, "broken-nets", "broken_nets", "import a_module_that_is_missing")
    done = command(tmp_path, "models", "my_net*", "--json")
    assert done.returncode == 0, done.stderr
    assert [facts["name"] for facts in json.loads(done.stdout)] == ["my_net_gray"]
    [line] = done.stderr.strip().splitlines()
    assert "broken-nets" in line and "a_module_that_is_missing" in line
    # What ships is found without a look at them.
    code = (
        "import sys; from denoise_ext.runtime import load_model; load_model('dxnet_s_gray',"
        " backend='torch'); from denoise_ext.models import create_model;"
        " assert 'their_nets' not in sys.modules; create_model('my_net_gray')"
    )
    python = [sys.executable, "-W", "ignore", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(python, env=environment, check=True)


# --- registration ---


class Net(ImageDenoiser):
    def __init__(self, channels: int = 1) -> None:
        super().__init__(channels, needs_sigma=False)


def test_registration_sets_the_family(names):
    class Mine(DnCNN):
        """Inherits another's family."""

    assert register_architecture("mine")(Mine).family == "mine"
    assert DnCNN.family == "dncnn"


def test_a_definition_may_be_repeated_but_no_name_taken(names):
    def define(module: str) -> type[ImageDenoiser]:
        body = {"__module__": module, "__qualname__": "Cell"}
        return register_architecture("cell")(type("Cell", (Net,), body))

    define("__main__")
    second = define("__main__")  # the cell of a notebook, run again
    assert isinstance(registry.build_model({"family": "cell"}), second)
    with pytest.raises(ValueError, match=r"'cell'.*__main__\.Cell"):
        define("another")
    with pytest.raises(ValueError, match="'dncnn_gray'"):

        @register_model
        def dncnn_gray(**kwargs):
            return DnCNN(**kwargs)


def test_wrong_registrations(names):
    with pytest.raises(TypeError, match=r"'plain'.*Network"):
        register_architecture("plain")(dict)
    with pytest.raises(ValueError, match="name"):
        register_architecture("")
    with pytest.raises(ValueError, match=r"'other'.*'family_of_mine'"):
        register_architecture("other")(type("Mine", (Net,), {"family": "family_of_mine"}))

    @register_model
    def returns_none(**kwargs):
        return None

    with pytest.raises(TypeError, match=r"'returns_none'.*NoneType"):
        create_model("returns_none")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"family": "dncnn"}, "does not describe"),
        ({"family": "nobody"}, "'nobody'"),
        ({"family": "dncnn", "width": {1}}, "JSON"),
        (["dncnn"], "dict"),
    ],
)
def test_a_config_that_does_not_rebuild_is_refused_before_training(names, config, message):
    mine = type("Mine", (DnCNN,), {"config": config})
    register_architecture("mine")(mine)
    with pytest.raises(ValueError, match=message):
        registry.check_config(mine(width=4, depth=2))
