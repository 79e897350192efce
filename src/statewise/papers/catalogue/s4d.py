"""S4D: diagonal state spaces and where they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Bound, Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from statewise.nn.initialisers import ContinuousLaw

#: Lag in samples, corner of the input in Nyquist frequencies, and 1/Δ in samples.
DELAYS = ((128, 0.1, 128), (128, 0.1, 256), (500, 0.04, 500), (500, 0.04, 1000))


def _laws() -> dict[str, ContinuousLaw]:
    from statewise.nn import S4DInv, S4DLegS, S4DLin

    return {"Lin": S4DLin(), "LegS": S4DLegS(), "Inv": S4DInv()}


def _weak_limit(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.transfer import (
        dense_response,
        legs_pair,
        order,
        relative_state_gap,
    )

    omega, sizes = np.array([0.5, 1.3]), (16, 64, 256)
    gaps = []
    for n in sizes:
        a, b, normal, half = legs_pair(n)
        pair = dense_response(a, b, omega), dense_response(normal, half, omega)
        gaps.append(relative_state_gap(*pair)[:4])
    worst = min(order(np.array(sizes), np.array(gaps)[:, k]) for k in range(4))
    details = {
        f"state {k}, N = {n}": gap[k] for n, gap in zip(sizes, gaps, strict=True) for k in (0, 3)
    }
    return Measured(worst, details, remark="Smallest order over the first four states.")


def _top_frequency(setting: Setting) -> Measured:
    import math

    import numpy as np

    from statewise.lti import legs_normal

    offsets = {n: n**2 / math.pi - float(np.imag(legs_normal(n)[0]).max()) for n in (64, 256, 1024)}
    return Measured(offsets.pop(1024), {f"N = {n}": value for n, value in offsets.items()})


def _inverse_law(setting: Setting) -> Measured:
    import numpy as np

    from statewise.lti import legs_normal
    from statewise.nn import S4DInv

    found = {}
    for n in (64, 256, 1024):
        exact = np.sort(np.imag(legs_normal(n)[0]))[::-1][:8]
        law = np.imag(S4DInv().sample(n // 2, np.random.default_rng(0)))[:8]
        found[n] = float(np.abs(law / exact - 1).max())
    return Measured(found.pop(1024), {f"N = {n}": value for n, value in found.items()})


def _kept_delay(setting: Setting) -> Measured:
    import torch

    from statewise.lti import LegS
    from statewise.nn import S4D
    from statewise.papers.harness.readout import (
        butterworth_noise,
        delayed,
        memory_states,
        readout_error,
        states,
    )

    details, ratios = {}, []
    for lag, corner, constant in DELAYS:
        step = 1 / constant
        signal = butterworth_noise(20_000, 4, corner, 0)
        target = torch.from_numpy(delayed(signal, lag))
        layers = {
            name: S4D(1, 32, law=law, dt_min=step, dt_max=step) for name, law in _laws().items()
        }
        layers["Real"] = S4D(1, 64, real=True, dt_min=step, dt_max=step)
        error = {
            name: readout_error(states(layer.double(), signal), target, 15_000, skip=2000)
            for name, layer in layers.items()
        }
        full = memory_states(LegS(), 64, step, signal)
        error["S4"] = readout_error(full, target, 15_000, skip=2000)
        ratios.append(error["Real"] / max(error[name] for name in ("Lin", "LegS", "Inv")))
        details |= {f"{name}, lag {lag}, 1/Δ {constant}": value for name, value in error.items()}
    return Measured(min(ratios), details, seeds=1, remark="Details: NMSE on held-out samples.")


def _kernel_fit(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import S4D
    from statewise.papers.harness.readout import low_passed_noise, ridge, states

    length = 1024
    impulse, decay = np.eye(1, length)[0], np.exp(-3 * np.arange(length) / length)
    features = {
        name: states(S4D(1, 32, law=law, dt_min=1 / length, dt_max=1 / length).double(), impulse)
        for name, law in _laws().items()
    }
    worst = dict.fromkeys(features, 0.0)
    for seed in range(5):
        # Eight cycles in the length of the kernel, cut out of a longer signal.
        smooth = low_passed_noise(8 * length, 16 / length, seed)[3 * length : 4 * length]
        kernel = torch.from_numpy(decay * smooth)
        for name, columns in features.items():
            left = kernel - columns @ ridge(columns, kernel)
            worst[name] = max(worst[name], float(left.norm() / kernel.norm()))
    return Measured(max(worst["Lin"], worst["Inv"]), worst, seeds=5)


def _views(setting: Setting) -> Measured:
    import torch

    from statewise.nn import FFT, S4D, Scan
    from statewise.ops import vandermonde_kernel

    u = torch.randn(2, 512, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(u, 1024, 1)
    worst = 0.0
    with torch.no_grad():
        for law in _laws().values():
            scan = S4D(4, 32, law=law, simulator=Scan()).double()
            convolution = S4D(4, 32, law=law, simulator=FFT()).double()
            y, state = scan(u)[0], scan.init_state(2)
            steps = []
            for k in range(u.shape[1]):
                sample, state = scan.step(u[:, k], state)
                steps.append(sample)
            a, gain, _ = scan.poles.discretise()
            b, c = (torch.view_as_complex(w) for w in (scan.coupling.B, scan.coupling.C))
            kernel = vandermonde_kernel(a.view_as(b), 2 * c * b * gain.view_as(b), 512)
            product = torch.fft.irfft(spectrum * torch.fft.rfft(kernel.T, 1024, 0), 1024, 1)
            others = (
                convolution(u)[0],
                torch.stack(steps, 1),
                product[:, :512] + u * scan.get_parameter("D"),
            )
            worst = max(worst, *(float((x - y).abs().max() / y.abs().max()) for x in others))
    return Measured(worst, remark="Scan, step, FFT of powers and Vandermonde kernel; 512 samples.")


def _rules(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.lti import ZOH, Bilinear
    from statewise.nn import S4D, S4DLin
    from statewise.papers.harness.transfer import order

    omega = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
    gaps = {}
    for step in (1e-2, 5e-3, 2.5e-3):
        held, tustin = (
            S4D(1, 8, law=S4DLin(), rule=rule, dt_min=step, dt_max=step).double()
            for rule in (ZOH(), Bilinear())
        )
        with torch.no_grad():
            first, second = (layer.frequency_response(omega * step) for layer in (held, tustin))
        gaps[step] = float((first - second).abs().max() / first.abs().max())
    found = order(1 / np.array(list(gaps)), np.array(list(gaps.values())))
    return Measured(found, {f"Δ = {step:g}": gap for step, gap in gaps.items()})


PAPER = Paper(
    name="s4d",
    title="On the Parameterization and Initialization of Diagonal State Space Models",
    identifier="arXiv:2206.11893",
    year=2022,
    says=(
        "A diagonal state space does what S4 does when its poles stay in the left half plane and "
        "start by a law of the HiPPO operator; its kernel is one Vandermonde product."
    ),
    uses=("nn.S4D", "nn.S4DLegS", "nn.S4DInv", "nn.S4DLin", "lti.legs_normal"),
    claims=(
        Claim(
            name="weak-limit",
            statement=(
                "The states of the diagonal part of LegS with half the input approach those of "
                "LegS as 1/N or faster for slow sinusoids: order of the relative rms difference "
                "over N = 16, 64, 256, the smallest of the first four states."
            ),
            measure=_weak_limit,
            must=at_least(1.0),
            published=1.0,
        ),
        Claim(
            name="top-frequency",
            statement=(
                "The largest imaginary part of the diagonal part of LegS is N²/π less a constant "
                "0.5236: that constant at N = 1024."
            ),
            measure=_top_frequency,
            must=Bound(0.5235, 0.5237),
        ),
        Claim(
            name="inverse-law",
            statement=(
                "The law S4D-Inv is the asymptotic law of these poles: largest relative deviation "
                "of the eight highest frequencies at N = 1024."
            ),
            measure=_inverse_law,
            must=at_most(0.02),
        ),
        Claim(
            name="complex-poles-keep-delays",
            statement=(
                "With frozen poles and a linear read-out, Lin, LegS and Inv all keep a delayed "
                "input with an error at least 1.7 times below that of real poles, with 64 real "
                "states each and 1/Δ of one or two lags: smallest ratio over four settings."
            ),
            measure=_kept_delay,
            must=at_least(1.7),
        ),
        Claim(
            name="kernel-fit",
            statement=(
                "A linear read-out of 64 frozen states with 1/Δ = 1024 fits smooth kernels of 1024 "
                "samples: largest relative error of Lin and Inv over five kernels."
            ),
            measure=_kernel_fit,
            must=at_most(0.05),
        ),
        Claim(
            name="one-system-four-ways",
            statement=(
                "The scan, the step, the convolution by FFT and the Vandermonde kernel give one "
                "output: largest relative difference in float64."
            ),
            measure=_views,
            must=at_most(1e-10),
        ),
        Claim(
            name="rules-agree",
            statement=(
                "Zero-order hold and the bilinear rule make no difference for small steps: order "
                "in Δ of the difference between their frequency responses."
            ),
            measure=_rules,
            must=at_least(1.9),
        ),
    ),
)
