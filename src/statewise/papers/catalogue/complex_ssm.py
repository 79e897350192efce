"""What complex poles buy a diagonal system."""

from __future__ import annotations

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most


def _least_weights(setting: Setting) -> Measured:
    from statewise.papers.harness.impulse import least_weights, targets

    bound = {
        (name, length): least_weights(targets(length)[name])
        for length in (8, 16, 32, 64)
        for name in ("delay", "oscillation", "random")
    }
    value = min(bound[name, 32] for name in ("delay", "oscillation"))
    return Measured(value, {f"{name}, t = {length}": x for (name, length), x in bound.items()})


def _growth(setting: Setting) -> Measured:
    from statewise.papers.harness.impulse import least_weights, targets

    lengths = (8, 16, 32, 64)
    ratios = {}
    for name in ("delay", "oscillation"):
        bounds = [least_weights(targets(length)[name]) for length in lengths]
        for k in range(3):
            ratios[f"{name}, {lengths[k]} to {lengths[k + 1]}"] = bounds[k + 1] / bounds[k]
    return Measured(min(ratios.values()), ratios)


def _bounded_real(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.impulse import bounded_error, real_basis, targets

    basis, wanted = real_basis(32, 1024), targets(32)
    wanted["delay"] = np.eye(32)[-1]
    details, lower = {}, []
    for name in ("delay", "oscillation"):
        for bound in (1.0, 100.0, 1e4):
            below, reached = bounded_error(basis, wanted[name], bound)
            details |= {f"{name}, |c| ≤ {bound:g}": reached, f"{name}, {bound:g}, at least": below}
            if bound == 1.0:
                lower.append(below)
    return Measured(min(lower), details, remark="The value is a certified lower bound.")


def _fourier(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.impulse import fourier_system, targets

    error, weights = 0.0, {}
    for length in (32, 256):
        for name, response in targets(length).items():
            made, largest = fourier_system(response)
            error = max(error, float(np.abs(made - response).max()))
            weights[f"largest |c|, {name}, t = {length}"] = largest
            if largest > 1:
                error = float("inf")
    return Measured(error, weights)


def _one_state(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import LTI, DiscreteDiagonal, GivenDiscrete

    length, radius, omega = 64, 1 - 1e-9, np.pi / 2
    law = GivenDiscrete((radius * np.cos(omega),), (radius * np.sin(omega),))
    poles = DiscreteDiagonal(law, "none")
    layer = LTI(1, 1, 1, poles=poles, feedthrough=False).double()
    impulse = torch.zeros(1, length, 1, dtype=torch.float64)
    impulse[0, 0] = 1
    with torch.no_grad():
        layer.get_parameter("poles.nu").copy_(torch.tensor([np.log(-np.log(radius))]))
        layer.get_parameter("poles.theta").copy_(torch.tensor([np.log(omega)]))
        layer.coupling.B.copy_(torch.tensor([[[1.0, 0.0]]]))
        layer.coupling.C.copy_(torch.tensor([[[1.0, 0.0]]]))
        response = layer(impulse)[0][0, :, 0].numpy()
    return Measured(float(np.abs(response - np.cos(omega * np.arange(length))).max()))


def _sign_changes(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import LTI, RealDiagonal

    length, worst, most = 256, -np.inf, 0
    impulse = torch.zeros(1, length, 1, dtype=torch.float64)
    impulse[0, 0] = 1
    for states in (1, 2, 4, 8):
        for seed in range(200):
            poles = RealDiagonal(dt_min=1e-3, dt_max=1.0, per_state=True)
            layer = LTI(1, 1, states, poles=poles, feedthrough=False, seed=seed).double()
            with torch.no_grad():
                response = layer(impulse)[0][0, :, 0].numpy()
            signs = np.sign(response[np.abs(response) > 1e-13 * np.abs(response).max()])
            changes = int((signs[1:] != signs[:-1]).sum())
            worst, most = max(worst, changes - (states - 1)), max(most, changes)
    needed = {"sign changes of cos(πk/2) on even k < 256": 127.0, "most found": float(most)}
    return Measured(float(worst), needed, seeds=200, remark="Real layers of 1, 2, 4 and 8 states.")


def _learnt(real: bool) -> Measured:
    import torch

    from statewise.papers.harness.impulse import fit_responses, targets

    wanted = targets(32)
    responses = torch.stack([torch.from_numpy(x) for x in wanted.values()])
    states = 1024 if real else 32
    best = torch.full((len(wanted),), torch.inf, dtype=torch.float64)
    for r_min in (0.0, 0.99) if real else (0.99,):
        for lr in (1e-2, 1e-3):
            found = fit_responses(responses, states, real=real, r_min=r_min, lr=lr)
            best = torch.minimum(best, found)
    details = dict(zip(wanted, best.tolist(), strict=True))
    return Measured(min(details.values()) if real else max(details.values()), details, seeds=1)


PAPER = Paper(
    name="complex-ssm",
    title="Provable Benefits of Complex Parameterizations for Structured State Space Models",
    identifier="arXiv:2410.14067",
    year=2024,
    says=(
        "Real diagonal systems need ever more states for an oscillation and exponentially large "
        "weights for a delay; complex ones need as many states as samples and moderate weights, "
        "and so gradient descent finds them."
    ),
    uses=("nn.LTI", "nn.DiscreteDiagonal", "nn.RealDiagonal"),
    claims=(
        Claim(
            name="real-weights-explode",
            statement=(
                "Real poles need weights beyond 10⁶ in all for a delay by half of 32 samples or "
                "for cos(πk/2): smaller of the two lower bounds on ‖c‖₁."
            ),
            measure=_least_weights,
            must=at_least(1e6),
        ),
        Claim(
            name="weights-grow-exponentially",
            statement=(
                "From 8 samples on each doubling of the length multiplies that bound by 20 or "
                "more: smallest factor."
            ),
            measure=_growth,
            must=at_least(20.0),
        ),
        Claim(
            name="bounded-real-weights",
            statement=(
                "1024 real poles with weights up to 1 miss a delay by 31 samples and cos(πk/2) by "
                "more than half of their norm: smaller of the certified errors."
            ),
            measure=_bounded_real,
            must=at_least(0.5),
        ),
        Claim(
            name="complex-weights-stay-small",
            statement=(
                "As many complex poles as samples give a delay, an oscillation and a random "
                "response exactly, with weights below 1: largest error."
            ),
            measure=_fourier,
            must=at_most(1e-12),
        ),
        Claim(
            name="one-complex-state",
            statement="One complex state gives cos(πk/2) over 64 samples: largest error.",
            measure=_one_state,
            must=at_most(1e-6),
        ),
        Claim(
            name="sign-changes",
            statement=(
                "The impulse response of n positive real poles changes sign n − 1 times at most: "
                "largest excess over that in 800 random layers."
            ),
            measure=_sign_changes,
            must=at_most(0.0),
        ),
        Claim(
            name="complex-is-learnt",
            statement=(
                "Adam finds a delay, an oscillation and a random response of 32 samples with 32 "
                "complex states: largest squared error of the better of two rates."
            ),
            measure=lambda setting: _learnt(real=False),
            must=at_most(1e-3),
        ),
        Claim(
            name="real-is-not-learnt",
            statement=(
                "Adam does not find them with 1024 real states: smallest squared error over the "
                "three, the better of two rates and two starts; a map of zero has 1."
            ),
            measure=lambda setting: _learnt(real=True),
            must=at_least(0.4),
            minutes=5,
        ),
    ),
)
