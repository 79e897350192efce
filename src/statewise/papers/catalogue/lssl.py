"""LSSL: the linear state-space layer with a dense operator."""

from __future__ import annotations

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most


def _views(setting: Setting) -> Measured:
    import torch

    from statewise.nn import LSSL

    layer = LSSL(3, 16, seed=0).double()
    u = torch.randn(2, 256, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, state, steps = layer(u)[0], layer.init_state(2), []
        for k in range(u.shape[1]):
            sample, state = layer.step(u[:, k], state)
            steps.append(sample)
        kernel = layer.kernel(256)[:, 0]
        spectrum = torch.fft.rfft(u, 512, 1) * torch.fft.rfft(kernel, 512, -1).T
        product = torch.fft.irfft(spectrum, 512, 1)[:, :256] + layer.D[:, 0] * u
        size = y.abs().max()
        gaps = {
            "recurrence": float((torch.stack(steps, 1) - y).abs().max() / size),
            "convolution": float((product - y).abs().max() / size),
        }
    return Measured(max(gaps.values()), gaps)


def _gate(setting: Setting) -> Measured:
    import torch

    from statewise.nn import LSSL

    worst = 0.0
    u = torch.randn(1, 200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for z in (-4.0, -1.0, 0.0, 2.0):
        layer = LSSL(1, 1, alpha=1.0).double()
        with torch.no_grad():
            layer.A.fill_(-1.0)
            layer.B.fill_(1.0)
            layer.C.fill_(1.0)
            layer.D.zero_()
            layer.log_dt.fill_(z)
            y = layer(u)[0][0, :, 0]
        gate, x = torch.sigmoid(torch.tensor(z, dtype=torch.float64)), torch.zeros(())
        for k in range(200):
            x = (1 - gate) * x + gate * u[0, k, 0]
            worst = max(worst, float((y[k] - x).abs()))
    return Measured(worst)


def _reconstruction(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.lti import LegT
    from statewise.papers.harness.readout import delayed, low_passed_noise, memory_states

    window, states = 1000, 32
    # Eight cycles a window.
    signal = low_passed_noise(20_000, 16 / window, 0)
    x = memory_states(LegT(), states, 1 / window, signal)
    basis = torch.from_numpy(LegT().basis(states, np.linspace(0.05, 0.95, 10)))
    rebuilt = x @ basis
    errors = {}
    for k, age in enumerate(np.linspace(0.05, 0.95, 10)):
        target = torch.from_numpy(delayed(signal, round(age * window)))[2000:]
        left = rebuilt[2000:, k] - target
        errors[f"age {age:.2f}"] = float((left.square().mean() / target.square().mean()).sqrt())
    return Measured(max(errors.values()), errors, seeds=1)


def _delay(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.lti import LegT
    from statewise.nn import LTI, DiscreteDiagonal, GivenDiscrete
    from statewise.papers.harness.readout import (
        butterworth_noise,
        delayed,
        memory_states,
        readout_error,
        states,
    )

    lag, scores, others = 100, [], []
    for seed in range(3):
        signal = butterworth_noise(20_000, 4, 0.1, seed)
        target = torch.from_numpy(delayed(signal, lag))
        features = memory_states(LegT(), 64, 1 / (1.5 * lag), signal)
        scores.append(1 - readout_error(features, target, 15_000, skip=2000))
        a = LegT().operator(64)[0] / (1.5 * lag)
        radius = float(np.exp(np.linalg.eigvals(a).real.max()))
        rng = np.random.default_rng(seed)
        modulus = radius * np.sqrt(rng.uniform(0, 1, 32))
        poles = modulus * np.exp(1j * rng.uniform(0, np.pi, 32))
        law = GivenDiscrete(tuple(poles.real.tolist()), tuple(poles.imag.tolist()))
        random = LTI(1, 1, 32, poles=DiscreteDiagonal(law)).double()
        others.append(1 - readout_error(states(random, signal), target, 15_000, skip=2000))
    details = {"random stable poles": float(np.mean(others))}
    return Measured(min(scores), details, seeds=3, remark="R² on held-out samples.")


def _half_rate(setting: Setting) -> Measured:
    import torch

    from statewise.lti import LegT
    from statewise.papers.harness.readout import (
        butterworth_noise,
        delayed,
        memory_states,
        ridge,
    )

    lag, train, step = 100, 30_000, 1 / 150
    signal = butterworth_noise(40_000, 4, 0.04, 0)
    target = torch.from_numpy(delayed(signal, lag))
    weight = ridge(memory_states(LegT(), 32, step, signal)[2000:train], target[2000:train])
    errors = {}
    for name, used in (("Δ doubled", 2 * step), ("same Δ", step)):
        features = memory_states(LegT(), 32, used, signal[::2])[train // 2 :]
        left = target[train::2] - features @ weight
        errors[name] = float(left.square().mean() / target[train::2].square().mean())
    return Measured(errors["same Δ"] / errors["Δ doubled"], errors, seeds=1)


PAPER = Paper(
    name="lssl",
    title=(
        "Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space "
        "Layers"
    ),
    identifier="arXiv:2110.13985",
    year=2021,
    says=(
        "One linear system is a recurrence, a convolution and a differential equation at will, "
        "and with a HiPPO operator it remembers; the gate of a recurrent network is a time step."
    ),
    uses=("nn.LSSL", "lti.LegS", "lti.LegT", "lti.LagT"),
    claims=(
        Claim(
            name="three-views",
            statement=(
                "The layer, its recurrence and the convolution with its kernel give one output: "
                "largest relative difference in float64."
            ),
            measure=_views,
            must=at_most(1e-10),
        ),
        Claim(
            name="a-gate-is-a-step",
            statement=(
                "One state with A = −1, backward Euler and Δ = eᶻ is the gate x + σ(z) (u − x): "
                "largest difference."
            ),
            measure=_gate,
            must=at_most(1e-14),
        ),
        Claim(
            name="reconstruction",
            statement=(
                "32 states of LegT rebuild an input of 8 cycles a window from its own basis, "
                "without any fit: largest relative error at ages 0.05 to 0.95 of the window."
            ),
            measure=_reconstruction,
            must=at_most(0.05),
        ),
        Claim(
            name="delay-100",
            statement=(
                "A read-out of 64 frozen LegT states recovers an input 100 samples ago: smallest "
                "R² on held-out samples."
            ),
            measure=_delay,
            must=at_least(0.95),
        ),
        Claim(
            name="half-rate",
            statement=(
                "A read-out that was fitted at one sampling rate serves every second sample when "
                "Δ is doubled, with a tenth of the error or less that it has without."
            ),
            measure=_half_rate,
            must=at_least(10.0),
        ),
    ),
)
