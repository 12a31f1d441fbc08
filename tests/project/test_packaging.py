"""What is shipped: source distribution, wheel, pinned versions, the compiled library's demands."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from quick_build import kernels_built_here, quick_compiler

import denoise_ext
from denoise_ext._loader import native

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
pytestmark = pytest.mark.xdist_group("packaging")
TIME_LIMIT = 900  # seconds for a compilation on a slow or busy machine


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command without this process's Python settings; its output, or a failed test."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DENOISE_EXT_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=env | environment, text=True, timeout=TIME_LIMIT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


# --- source distribution -> wheel -> empty environment --------------------------------------------


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    command = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ".")
    run(*command, cwd=ROOT, DENOISE_EXT_CUDA="0")
    [archive] = out.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(
    sdist: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Path:
    """Built from the unpacked sdist, so with nothing of the checkout; without CUDA, to be quick.

    With --all it is compiled as a user's.  Else by quick_compiler(), which takes the same kernels
    from the editable build.
    """
    folder = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(sdist, folder)
    [source] = (path for path in folder.iterdir() if path.is_dir())
    compiler = {} if pytestconfig.option.all else {"CXX": quick_compiler(folder, source)}
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ".")
    run(*command, cwd=source, DENOISE_EXT_CUDA="0", **compiler)
    [built] = folder.glob("*.whl")
    return built


def test_only_kernels_with_the_same_sources_are_taken(tmp_path):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    same = kernels_built_here(tmp_path)
    if "csrc/cpu/motion.cpp" not in same:
        pytest.skip("needs an editable build that is up to date")
    with open(tmp_path / "csrc/cpu/motion.h", "a") as header:
        header.write("// changed\n")
    taken = set(same) - set(kernels_built_here(tmp_path))
    assert "csrc/cpu/motion.cpp" in taken and "csrc/cpu/gaussian.cpp" not in taken


def dependencies_of(name: str) -> set[str]:
    """Canonical names of a distribution's dependencies here, and of theirs, without extras."""
    found: set[str] = set()
    todo = [name]
    while todo:
        for text in importlib.metadata.requires(todo.pop()) or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and canonicalize_name(requirement.name) not in found:
                found.add(canonicalize_name(requirement.name))
                todo.append(requirement.name)
    return found


def link_distribution(name: str, site_packages: Path) -> None:
    """Make an installed distribution, and no other, visible in another environment."""
    files = importlib.metadata.files(name)
    assert files, name
    here = Path(files[0].locate()).parents[len(files[0].parts) - 1]
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        (site_packages / top).symlink_to(here / top)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; its dependencies are links to those installed here.

    Links, because installing PyTorch anew takes a minute, a gigabyte and a network. The environment
    still has exactly what the wheel's metadata asks for: an undeclared import fails in it, and
    `pip check` finds a requirement that is not met.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run(python, "-c", where, cwd=folder).strip())
    for name in dependencies_of("denoise_ext"):
        link_distribution(name, site_packages)
    run(*pip, "check", cwd=folder)
    return folder


SMOKE_TEST = """
import pathlib, sys
import torch
import denoise_ext
from denoise_ext import codec, data, metrics, models, ops, reference

assert pathlib.Path(denoise_ext.__file__).is_relative_to(sys.prefix), denoise_ext.__file__
torch.manual_seed(0)
clean = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).clone()
noisy = data.noise.add_gaussian_noise(clean, 25)
blurred = ops.bilateral_blur(noisy, 5, 0.3, (1.5, 1.5))
torch.testing.assert_close(blurred, reference.bilateral_blur(noisy, 5, 0.3, (1.5, 1.5)))
names = models.list_models(pretrained=True)
assert names, "no trained model in the wheel"
for name in names:
    model = models.create_model(name, pretrained=True).eval()
    with torch.inference_mode():
        channels = model.in_channels
        if name.startswith("dxcodec"):
            picture = (255 * noisy[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
            made = torch.from_numpy(codec.decode(codec.encode(picture, 80, 25.0)))
            denoised = made.permute(2, 0, 1)[None] / 255
        elif model.signature.state or "guide" in model.signature.inputs:
            level = torch.full((1, 1, 1, 1), 25 / 255)
            inputs = {"image": noisy[:, :channels], "noise_map": level, "guide": clean}
            own = {name: inputs[name] for name in model.signature.inputs}
            denoised = model(own)[0]["image"]
        else:
            denoised = model(noisy[:, :channels], 25.0)
            denoised = torch.nn.functional.avg_pool2d(denoised, getattr(model, "scale", 1))
    gain = metrics.psnr(denoised, clean[:, :channels]) - metrics.psnr(noisy, clean)
    assert gain > 5, (name, gain)
print("denoised with", *names)
"""


@pytest.mark.slow
@pytest.mark.rotates(turn=0)  # a build of its own
def test_wheel_denoises_in_an_empty_environment(environment, tmp_path):
    python = environment / "bin" / "python"
    assert "denoised with" in run(python, "-c", SMOKE_TEST, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.rotates(turn=0)  # a build of its own
def test_wheel_brings_the_command_line(environment, tmp_path):
    command = environment / "bin" / "denoise-ext"
    assert denoise_ext.__version__ in run(command, "--version", cwd=tmp_path)
    assert "isa" in run(command, "info", "--json", cwd=tmp_path)
    photograph = next(environment.rglob("denoise_ext/assets/*.png"))
    with Image.open(photograph) as picture:  # a part: the kernels are not optimised
        picture.crop((0, 0, 96, 96)).save(tmp_path / "in.png")
    run(command, "denoise", "in.png", "-o", "out.png", "--sigma", "10", cwd=tmp_path)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (96, 96)


@pytest.mark.slow
@pytest.mark.rotates(turn=0)  # a build of its own
def test_wheel_holds_the_package_and_only_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "denoise_ext").rglob("*"):
        name = str(path.relative_to(ROOT))
        if path.is_file() and "__pycache__" not in name and ".so" not in path.suffixes:
            assert name in names
    native = {name for name in names if name.startswith("denoise_ext/_native.")}
    assert sum(name.endswith(".so") for name in native) == 1
    assert native > {"denoise_ext/_native.pyi"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"denoise_ext"}


def test_sdist_holds_every_source(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = [p for end in ("h", "inl", "cuh", "cu", "cpp") for p in ROOT.glob(f"csrc/**/*.{end}")]
    sources += [
        *ROOT.glob("denoise_ext/**/*.py"),
        *ROOT.glob("denoise_ext/*.pyi"),
        *ROOT.glob("tests/**/*.py"),
    ]
    sources += [ROOT / name for name in ("setup.py", "pyproject.toml", "Makefile", "LICENSE")]
    sources += [ROOT / name for name in ("constraints.txt", "README.md", ".ci/run")]
    assert len(sources) > 30
    assert {str(path.relative_to(ROOT)) for path in sources} - names == set()
    built = r"\.so$|\.o$|__pycache__|^(build|dist|\.venv|runs)/"
    assert [name for name in names if re.search(built, name)] == []


# --- pinned versions ----------------------------------------------------------------------------


PINS = ("constraints.txt", "benchmarks/constraints.txt")


def pins(*files: str) -> dict[str, str]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    stated = [line for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (s.split("==") for s in stated)}


def test_every_requirement_is_pinned_within_its_range():
    project = PYPROJECT["project"]
    stated = [*PYPROJECT["build-system"]["requires"], *project["dependencies"]]
    stated += [text for extra in project["optional-dependencies"].values() for text in extra]
    for requirement in map(Requirement, stated):
        assert pins(*PINS)[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("files", [PINS[:1], PINS], ids=["make venv", "make bench"])
def test_pins_are_complete(files):
    # A dependency that is not pinned makes two set-ups differ. (Where nothing was installed from
    # constraints.txt, say in a distribution's own environment, there is nothing to compare.)
    pinned = pins(*files)
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed: not an environment made by this command")
        if installed != version:
            pytest.skip(f"{name} {installed}: not an environment made by this command")
    assert set().union(*map(dependencies_of, pinned)) - set(pinned) == set()


# --- the compiled library ------------------------------------------------------------------------


def binutils(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool} (binutils)")
    return run(tool, *arguments, native().__file__, cwd=ROOT)


def test_library_needs_of_torch_only_its_stable_interface():
    # C++ symbols of libtorch change from release to release; these C functions do not. The rest
    # belongs to Python or to the system, which gives its symbols versions. (libtorch has copies of
    # some standard library functions; where the linker met those first, the version is missing.)
    known = re.compile(
        r"aoti_torch_|torch_|_?Py|.*@(GLIBC|GLIBCXX|CXXABI|GCC)_|_ZN?K?[RO]?St(?!.*(3c10|2at|5torch))"
    )
    lines = binutils("nm", "--dynamic", "--undefined-only").splitlines()
    undefined = {name for kind, name in (line.split()[-2:] for line in lines) if kind == "U"}
    assert any(name.startswith("aoti_torch_") for name in undefined)
    assert sorted(name for name in undefined if not known.match(name)) == []


def test_library_finds_torch_by_no_path_of_the_build_machine():
    dynamic = binutils("readelf", "--dynamic", "--wide")
    assert re.findall(r"\((?:RPATH|RUNPATH)\).*", dynamic) == []
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    system = r"lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\.\d+|ld-linux.*"
    foreign = [name for name in needed if not re.fullmatch(system, name)]
    assert set(foreign) <= {"libc10.so", "libtorch.so", "libtorch_cpu.so"}


@pytest.mark.slow
@pytest.mark.rotates(turn=0, turns=2)
def test_isa_is_forced_by_the_environment():
    code = "from denoise_ext._loader import native; print(native().isa_in_use())"
    for isa in native().isa_available():
        assert run(sys.executable, "-c", code, cwd=ROOT, DENOISE_EXT_CPU_ISA=isa).strip() == isa


def test_wrong_isa_names_the_variable_and_what_is_allowed():
    code = (
        "import torch; from denoise_ext import ops\n"
        "try: ops.gaussian_blur2d(torch.rand(1, 1, 8, 8), 3, 1.0)\n"
        "except RuntimeError as error: print(error)"
    )
    said = run(sys.executable, "-c", code, cwd=ROOT, DENOISE_EXT_CPU_ISA="sse9")
    assert "DENOISE_EXT_CPU_ISA" in said
    assert "sse9" in said
    assert all(isa in said for isa in native().isa_available())
