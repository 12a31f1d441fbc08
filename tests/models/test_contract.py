"""Networks of other kinds than image denoisers, through everything that is written once.

An upscaler, a recurrent network, one with two outputs and one with two inputs, none of which the
package has heard of: geometry, tiles, plans, memory, ONNX files.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import partial

import pytest
import torch
from command_line import run
from contract_networks import (
    BOUND,
    KINDS,
    SIZE,
    Recurrent,
    TwoInputs,
    Upscaler,
    build,
    in_float32,
    in_tiles,
    random_inputs,
)
from engine_tools import ours_is_faster as ours_is_faster

import denoise_ext
from denoise_ext._loader import native_error
from denoise_ext.analysis import gflop_per_megapixel
from denoise_ext.analysis.geometry import describe
from denoise_ext.engine import plan
from denoise_ext.engine.run import memory
from denoise_ext.export import export_onnx
from denoise_ext.models import (
    Network,
    Port,
    Signature,
    register_architecture,
    register_model,
    registry,
    save_model,
)
from denoise_ext.nn import to_torch
from denoise_ext.runtime import from_module
from denoise_ext.runtime.tiling import grid, rule, run_tiles

RECURRENT = [name for name in KINDS if KINDS[name].signature.state]
needs_native = pytest.mark.skipif(native_error() is not None, reason="native library missing")


def double(name: str) -> Network:
    """In plain PyTorch and float64, where a tile's sums are the whole image's."""
    return to_torch(build(name)).double()


def frames(network: Network, compute, count: int) -> tuple[list, dict]:
    """Outputs of so many frames in a row, and the last state."""
    first = random_inputs(network, *SIZE)
    state, results = network.initial_state(first), []
    for i in range(count):
        inputs = random_inputs(network, *SIZE, seed=i)
        outputs, state = compute(inputs, state)
        results.append(outputs)
    return results, state


@pytest.mark.parametrize("name", KINDS)
def test_any_size_gives_ports_of_their_scale(name):
    network = double(name)
    for height, width in ((1, 1), (2, 5), (7, 4), SIZE):
        inputs = random_inputs(network, height, width)
        outputs, state = network.compute_any_size(inputs, network.initial_state(inputs))
        for port_name, port in network.signature.outputs.items():
            shape = (1, port.channels, port.size(height), port.size(width))
            assert tuple(outputs[port_name].shape) == shape
        for port_name, port in network.signature.state.items():
            rows, columns = network.padded(height), network.padded(width)
            assert tuple(state[port_name].shape)[2:] == (port.size(rows), port.size(columns))


def reach(network: Network, across: bool) -> int:
    """How far from itself any output or state reads any input or state, by NaN in one row."""
    size, ports = 24 * network.stride, {**network.signature.inputs, **network.signature.state}
    worst = 0
    for name, port in ports.items():
        for index in range(port.size(size)):
            inputs = random_inputs(network, size, size)
            state = network.initial_state(inputs)
            changed = inputs if name in inputs else state
            tensor = changed[name].transpose(2, 3) if across else changed[name]
            tensor[:, :, index] = torch.nan
            outputs, after = network.compute(inputs, state)
            place = int(index / port.scale)
            for result, made in {**network.signature.outputs, **network.signature.state}.items():
                values = {**outputs, **after}[result].isnan().any(1)[0]
                rows = values.any(0 if across else 1).nonzero().flatten().tolist()
                places = [int(row / made.scale) for row in rows]
                worst = max([worst, *(abs(place - other) for other in places)])
    return worst


@pytest.mark.parametrize("name", KINDS)
def test_what_does_not_fit_the_signature_is_refused(name):
    network = double(name)
    inputs = random_inputs(network, *SIZE)
    outputs, state = network(inputs)
    assert set(outputs) == set(network.signature.outputs)
    assert set(state) == set(network.signature.state)
    for given in ({}, inputs | {"other": inputs["image"]}, {**inputs, "image": None}):
        with pytest.raises((TypeError, ValueError), match="image"):
            network(given)
    for wrong in (inputs["image"][0], inputs["image"][:, :0], inputs["image"].long()):
        with pytest.raises((TypeError, ValueError), match="image"):
            network(inputs | {"image": wrong})
    for port in set(network.signature.inputs) - {"image"}:
        with pytest.raises(ValueError, match=port):
            network(inputs | {port: torch.zeros_like(inputs[port])[:, :, 2:]})
    for port in network.signature.state:
        with pytest.raises(ValueError, match=port):
            network(inputs, state | {port: state[port][..., 1:]})
    with pytest.raises(ValueError, match="state"):
        network(inputs, {**state, "more": inputs["image"]})


@pytest.mark.parametrize("name", KINDS)
def test_geometry_is_what_changes_reach(name):
    network = double(name)
    geometry = describe(network)
    assert network.stride % geometry.stride == 0
    assert max(reach(network, across) for across in (False, True)) == geometry.radius


def assert_equal(network, results, state, expected, expected_state, **tolerance) -> None:
    for made, right in zip(results, expected, strict=True):
        for port in network.signature.outputs:
            torch.testing.assert_close(made[port], right[port], **tolerance)
    for port in network.signature.state:
        torch.testing.assert_close(state[port], expected_state[port], **tolerance)


@pytest.mark.parametrize("name", KINDS)
def test_tiles_make_the_whole(name):
    """Five frames: what a tile keeps of the state is what the next frame's tiles read."""
    network = double(name)
    tiles = rule(describe(network).radius, network.stride, "strict", network.signature.alignment)
    parts = grid(*SIZE, (tiles.smallest + network.stride, tiles.smallest), tiles)
    assert len(parts) > 3
    run = partial(run_tiles, network, network.compute_any_size)
    with torch.inference_mode():
        expected = frames(network, network.compute_any_size, 5)
        tiled = frames(network, partial(in_tiles, network, run, parts), 5)
    assert_equal(network, *tiled, *expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("ours_is_faster")
def test_accelerate_plans_the_whole(name):
    network = build(name)
    inputs = {key: x.float() for key, x in random_inputs(network, *SIZE).items()}
    state = network.initial_state(inputs)

    fast = denoise_ext.accelerate(network, (inputs, state))
    rows = fast.report().rows
    whole = [row.variant for row in rows if row.site.endswith(".compute_any_size")]
    assert whole == ["plan"], fast.report()
    with torch.inference_mode():
        kept = {key: value.clone() for key, value in state.items()}
        for _ in range(3):
            outputs, after = fast(inputs, state)
            expected, expected_state = network(inputs, state)
            for key in outputs:
                torch.testing.assert_close(outputs[key], expected[key], rtol=1e-4, atol=1e-4)
            for key in after:
                torch.testing.assert_close(after[key], expected_state[key], rtol=1e-4, atol=1e-4)
                assert torch.equal(state[key], kept[key]), "the state that was given is not changed"
            state, kept = after, {key: value.clone() for key, value in after.items()}


@needs_native
@pytest.mark.parametrize("name", RECURRENT)
def test_plans_follow_streams_sizes_and_resets(name):
    """Two streams take turns with one plan, one changes its size and begins anew."""
    network = build(name)
    fast, states = plan(network), {}
    sizes = {"a": [SIZE] * 6, "b": [(32, 24)] * 2 + [SIZE, None, SIZE, SIZE]}
    with torch.inference_mode():
        for frame in range(6):
            for stream, by_frame in sizes.items():
                size = by_frame[frame]
                if frame and size != by_frame[frame - 1]:
                    states.pop(stream, None)  # no state yet, or a state of another size
                if size is None:
                    continue
                inputs = in_float32(random_inputs(network, *size, seed=frame))
                ours, theirs = states.get(stream, (None, None))
                outputs, ours = fast(inputs, ours)
                expected, theirs = network(inputs, theirs)
                assert_equal(network, [outputs], ours, [expected], theirs, **BOUND)
                states[stream] = (ours, theirs)
    rows = fast.report().rows
    assert {row.variant for row in rows if not row.module} == {"plan"}, fast.report()


@needs_native
@pytest.mark.parametrize("name", RECURRENT)
def test_a_planned_state_lies_in_two_blocks_in_turn(name, monkeypatch):
    """Once every block is there, a frame neither asks for memory nor clones the state."""
    network = build(name)
    fast, allocated = plan(network), []
    allocate = memory.allocate
    monkeypatch.setattr(memory, "allocate", lambda *args: allocated.append(args) or allocate(*args))
    inputs = in_float32(random_inputs(network, 512, 512))
    with torch.inference_mode():
        _, state = fast(inputs)
        _, state = fast(inputs, state)
        assert allocated
        allocated.clear()
        places = []
        with torch.profiler.profile() as profile:
            for _ in range(6):
                _, state = fast(inputs, state)
                places.append({key: x.data_ptr() for key, x in state.items()})
    assert not allocated
    for key in network.signature.state:
        first, second = places[0][key], places[1][key]
        assert first != second
        assert [place[key] for place in places] == [first, second] * 3
    assert "aten::clone" not in {event.name for event in profile.events()}


@needs_native
@pytest.mark.parametrize("name", RECURRENT)
def test_a_state_that_is_kept_stays_as_it_is(name):
    network = build(name)
    fast, kept = plan(network), []
    inputs = in_float32(random_inputs(network, 512, 512))
    with torch.inference_mode():
        state = None
        for _ in range(5):
            _, state = fast(inputs, state)
            part = {key: x[:, -1:] for key, x in state.items()}  # keeps the whole alive
            kept.append((part, {key: x.clone() for key, x in part.items()}))
    for part, values in kept:
        for key in values:
            assert torch.equal(part[key], values[key])


@pytest.mark.rotates()
@pytest.mark.parametrize("name", KINDS)
def test_exported_files_compute_the_same(name, tmp_path):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "net.onnx"
    assert export_onnx(build(name), target) <= 1e-3
    import onnxruntime

    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    signature = KINDS[name].signature
    given = {"sigma" if key == "noise_map" else key for key in signature.inputs}
    assert {port.name for port in session.get_inputs()} == given | set(signature.state)
    made = {port.name for port in session.get_outputs()}
    assert {f"next_{key}" for key in signature.state} <= made


@needs_native
@pytest.mark.parametrize("name", KINDS)
def test_what_denoises_no_image_is_refused_at_once(name):
    network = build(name)
    inputs = {key: x.float() for key, x in random_inputs(network, *SIZE).items()}
    example = (inputs, network.initial_state(inputs))
    kind = type(network).__name__
    for model in (network, denoise_ext.accelerate(network, example)):
        with pytest.raises(TypeError, match=rf"model must .*ImageDenoiser.*{kind}"):
            denoise_ext.Denoiser(model)
    with pytest.raises(TypeError, match=rf"module must .*{kind}"):
        from_module(network, 3)


@pytest.mark.rotates()
@pytest.mark.parametrize("name", KINDS)
def test_commands_take_every_network(name, monkeypatch, tmp_path, capsys):
    for table in ("_architectures", "_models", "_pretrained"):  # put back afterwards
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    register_architecture(name)(KINDS[name])

    def make() -> Network:
        return build(name)

    make.__name__ = name
    register_model(make)
    code, out, err = run(capsys, "models", name, "--json")
    assert (code, err) == (0, "")
    [facts] = json.loads(out)
    assert facts["channels"] == KINDS[name].signature.inputs["image"].channels
    assert facts["needs_sigma"] == ("noise_map" in KINDS[name].signature.inputs)
    save_model(build(name), tmp_path / "net.safetensors")
    target = str(tmp_path / "net.onnx")
    code, out, err = run(capsys, "export", str(tmp_path / "net.safetensors"), "-o", target)
    assert (code, err) == (0, "")
    signature = KINDS[name].signature
    assert out.count("input: ") == len(signature.inputs) + len(signature.state)
    assert out.count("output: ") == len(signature.outputs) + len(signature.state)


@pytest.mark.parametrize("name", KINDS)
def test_arithmetic_is_counted(name):
    assert gflop_per_megapixel(build(name)) > 0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Port(0), "channels"),
        (lambda: Port(True), "channels"),
        (lambda: Port(1, scale=0), "scale"),
        (lambda: Port(1, kind="sound"), "kind"),
        (lambda: Signature({}, {"image": Port(1)}), "inputs"),
        (lambda: Signature({"image": Port(1)}, {}), "outputs"),
        (lambda: Signature({"image": Port(1, scale=2)}, {"image": Port(1)}), "inputs"),
        (lambda: Signature({"a": Port(1)}, {"b": Port(1)}, {"a": Port(1)}), "state"),
    ],
)
def test_signatures_that_make_no_sense(make, named):
    with pytest.raises((TypeError, ValueError), match=named):
        make()


def test_alignment_is_that_of_all_ports():
    assert Upscaler.signature.alignment == TwoInputs.signature.alignment == 1
    assert Recurrent.signature.alignment == 2
    thirds = Signature({"x": Port(1)}, {"y": Port(1, scale=Fraction(2, 3))})
    assert thirds.alignment == 3
