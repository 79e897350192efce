"""The whole model between its physical inputs and outputs: small-signal gain, steady state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.models import DeepWiener
from statewise.nn import WienerBlock
from statewise.report.content import Channel, PathSummary
from statewise.report.layers import frequency_grid

Array = npt.NDArray[np.float64]
LEVELS = 81
#: Half step of the central difference of the output map, in standard deviations.
STEP = 1e-4


def steady_state(model: DeepWiener, u: npt.ArrayLike) -> Array:
    """Output that a model settles at under constant inputs.

    Every linear system enters with its gain at zero frequency, so the answer is exact: the limit
    of ``model`` on an endless constant input.

    Args:
        model: the model.
        u: constant inputs, normalised, (G, n_u).

    Returns:
        Normalised outputs (G, n_y).
    """
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        inputs = torch.as_tensor(np.asarray(u, np.float64))
        signal = inputs if model.input_map is None else model.input_map(inputs)
        for block in model.blocks:
            signal = _settle(block, signal)  # type: ignore[arg-type]
        return _read_out(model, signal, inputs).numpy()


def small_signal_response(
    model: DeepWiener, omega: npt.ArrayLike, u: npt.ArrayLike | None = None
) -> npt.NDArray[np.complex128]:
    """Frequency response of a model linearised at its steady state under a constant input.

    G(e^{iω}) = W G_L ⋯ G_1 W_in + W_d, where G_l = J_σ H_l(e^{iω}) J_norm + F is the block with
    the derivatives of its static map and normalisation at the steady state.

    Args:
        model: the model.
        omega: angular frequencies in radians per sample (F,).
        u: the constant input, normalised, (n_u,); zero (the mean of the training data) when None.

    Returns:
        Complex response (F, n_y, n_u) between normalised signals.
    """
    model = copy.deepcopy(model).double().eval()
    start = np.zeros(model.d_input) if u is None else np.asarray(u, np.float64)
    frequencies = torch.as_tensor(np.asarray(omega, np.float64))
    with torch.no_grad():
        point = torch.as_tensor(start)
        signal = point if model.input_map is None else model.input_map(point)
        path = torch.eye(model.d_input, dtype=torch.complex128)
        if model.input_map is not None:
            path = model.input_map.weight.to(path.dtype)
        path = path.expand(len(frequencies), -1, -1)
        for block in model.blocks:
            gain, signal = _linearised(block, signal, frequencies)  # type: ignore[arg-type]
            path = gain @ path
        path = model.output_map.weight.to(path.dtype) @ path
        if model.direct is not None:
            path = path + model.direct.weight.to(path.dtype)
        return path.numpy()


def path_summary(
    model: DeepWiener,
    inputs: Sequence[Channel],
    outputs: Sequence[Channel],
    *,
    u_mean: npt.ArrayLike,
    u_std: npt.ArrayLike,
    to_physical: Callable[[Array], Array],
) -> PathSummary:
    """Describe the model between signals in their own units.

    Args:
        model: the model, which works on normalised signals.
        inputs: the input signals; the drawn levels are mean ± 2 standard deviations, cut at ``low``
            and ``high``.
        outputs: the output signals.
        u_mean: mean of each input, (n_u,).
        u_std: standard deviation of each input, (n_u,).
        to_physical: increasing map from normalised outputs (G, n_y) to those in physical units,
            channel by channel.
    """
    mean_u, std_u = np.asarray(u_mean, np.float64), np.asarray(u_std, np.float64)
    omega = frequency_grid(model)
    response = np.abs(small_signal_response(model, omega))
    levels = np.empty((len(inputs), LEVELS))
    steady = np.empty((len(inputs), LEVELS, len(outputs)))
    for index, channel in enumerate(inputs):
        low = np.fmax(mean_u[index] - 2 * std_u[index], channel.low)
        high = np.fmin(mean_u[index] + 2 * std_u[index], channel.high)
        levels[index] = np.linspace(low, high, LEVELS)
        held = np.zeros((LEVELS, len(inputs)))
        held[:, index] = (levels[index] - mean_u[index]) / std_u[index]
        steady[index] = to_physical(steady_state(model, held))
    return PathSummary(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        omega=omega,
        gain=response * physical_scale(model, len(inputs), std_u, to_physical),
        levels=levels,
        steady=steady,
    )


def physical_scale(
    model: DeepWiener,
    n_inputs: int,
    u_std: npt.ArrayLike,
    to_physical: Callable[[Array], Array],
) -> Array:
    """Factors from a response at the mean input to one in physical units, (1, n_y, n_u).

    Args:
        model: the model.
        n_inputs: number of inputs.
        u_std: standard deviation of each input, (n_u,).
        to_physical: map from normalised outputs to those in physical units; its slope is taken at
            the steady output under the mean input.
    """
    at_mean = steady_state(model, np.zeros((1, n_inputs)))
    slope = (to_physical(at_mean + STEP) - to_physical(at_mean - STEP))[0] / (2 * STEP)
    return slope[None, :, None] / np.asarray(u_std, np.float64)[None, None, :]


def _dc(block: WienerBlock, signal: Tensor) -> Tensor:
    """Output of the block's linear system under a constant input (..., d_input)."""
    response = block.lti.frequency_response(torch.zeros(1, dtype=torch.float64))[0].real
    eta = signal @ response.mT
    return eta if block.lti.bias is None else eta + block.lti.bias


def _around(block: WienerBlock) -> Tensor:
    """The matrix F around the block."""
    if block.F is not None:
        return block.F
    if block.adds_input:
        return torch.eye(block.d_output, dtype=torch.float64)
    return torch.zeros(block.d_output, block.d_input, dtype=torch.float64)


def _settle(block: WienerBlock, signal: Tensor) -> Tensor:
    inside = block.norm(signal) if block.prenorm else signal
    out = block.static(_dc(block, inside)) + signal @ _around(block).mT
    return out if block.prenorm else block.norm(out)


def _linearised(block: WienerBlock, signal: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    inside, before = signal, torch.eye(block.d_input, dtype=torch.float64)
    if block.prenorm:
        inside, before = block.norm(signal), _jacobian(block.norm, signal)
    eta = _dc(block, inside)
    slope = _jacobian(block.static, eta)
    kind = torch.complex128
    gain = slope.to(kind) @ block.lti.frequency_response(omega).to(kind) @ before.to(kind)
    gain = gain + _around(block).to(kind)
    out = block.static(eta) + signal @ _around(block).mT
    if block.prenorm:
        return gain, out
    return _jacobian(block.norm, out).to(kind) @ gain, block.norm(out)


def _jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(function, point)
    return jacobian.detach()  # type: ignore[union-attr]


def _read_out(model: DeepWiener, signal: Tensor, inputs: Tensor) -> Tensor:
    y = model.output_map(signal)
    return y if model.direct is None else y + model.direct(inputs)
