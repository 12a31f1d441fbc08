"""Networks on several frames in a row, their state carried from each to the next."""

from __future__ import annotations

from collections.abc import Callable

import torch

from denoise_ext.models.network import Network, Tensors

Compute = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


def compute_frames(
    network: Network,
    inputs: Tensors,
    state: Tensors | None = None,
    compute: Compute | None = None,
    truncate: int = 0,
) -> tuple[Tensors, Tensors]:
    """Outputs and next state for one frame or several.

    Args:
        network: what computes.
        inputs: (N, C, H, W) by name, one frame; or (N, T, C, H, W), T frames. An input of four
            dimensions beside others of five is the same for every frame.
        state: what the last call returned; None: the network's initial state.
        compute: called for every frame; None: ``network.compute_any_size``.
        truncate: after so many frames the state is cut off from the gradient; 0: never.

    Frames of a network with a `delay` are a whole clip, continued at both ends by mirroring.

    Returns:
        Outputs, with T as in the inputs, and the state after the last frame.

    Raises:
        ValueError: inputs with different numbers of frames, or with none; a state for frames of a
            network with a delay.
    """
    compute = network.compute_any_size if compute is None else compute
    frames = {name: x.shape[1] for name, x in inputs.items() if x.dim() == 5}
    if not frames:
        state = network.initial_state(inputs) if state is None else state
        return compute(inputs, state)
    count = next(iter(frames.values()))
    if count < 1 or set(frames.values()) != {count}:
        raise ValueError(f"inputs must have one number of frames T >= 1, got {frames}")
    if network.delay and state is not None:
        raise ValueError("state must be None: with a delay, frames are a whole clip")
    made: list[Tensors] = []
    order = mirrored(count, network.delay)
    for call, index in enumerate(order):
        frame = {name: x[:, index] if name in frames else x for name, x in inputs.items()}
        state = network.initial_state(frame) if state is None else state
        if truncate and call and call % truncate == 0:
            state = {name: x.detach() for name, x in state.items()}
        outputs, state = compute(frame, state)
        made.append(outputs)
    assert state is not None
    return {
        name: torch.stack([outputs[name] for outputs in made[2 * network.delay :]], dim=1)
        for name in made[0]
    }, state


def mirrored(count: int, delay: int) -> list[int]:
    """The frames of a clip in the order in which a network with that `delay` takes them.

    The first ``2 * delay`` outputs are of no frame, the others are of all frames in their order.
    """
    period = max(2 * (count - 1), 1)
    places = (i % period for i in range(-delay, count + delay))
    return [min(place, period - place) if count > 1 else 0 for place in places]
