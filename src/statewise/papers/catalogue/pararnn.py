"""ParaRNN: nonlinear recurrences solved over the whole sequence by Newton's method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

    from statewise.ops import NewtonScan


def _problem(spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pre-activations (2, 200, 3, 8) and recurrent diagonals (3, 8) of that standard deviation."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(2, 200, 3, 8, dtype=torch.float64, generator=generator)
    a = spread * torch.randn(3, 8, dtype=torch.float64, generator=generator)
    return pre, a


def _solve(pre: Tensor, a: Tensor, iterations: int, tolerance: float | None = 0.0) -> NewtonScan:
    from statewise.ops import ParaGRUCell, newton_scan

    return newton_scan(ParaGRUCell(a), pre, iterations=iterations, tolerance=tolerance)


def _sequential(pre: Tensor, a: Tensor) -> Tensor:
    import torch

    from statewise.ops import gru_cell

    h, found = torch.zeros(2, 8, dtype=torch.float64), []
    for k in range(pre.shape[1]):
        h = gru_cell(h, pre[:, k], a)
        found.append(h)
    return torch.stack(found, 1)


def _few_iterations(setting: Setting) -> Measured:
    errors: dict[str, float] = {}
    for seed in range(5):
        pre, a = _problem(0.5, seed)
        a = a.clamp(-0.5, 0.5)
        exact = _sequential(pre, a)
        for count in (1, 2, 3, 4):
            gap = float((_solve(pre, a, count).h - exact).abs().max())
            name = f"{count} iterations"
            errors[name] = max(errors.get(name, 0.0), gap)
    return Measured(errors["4 iterations"], errors, seeds=5)


def _exact_prefix(setting: Setting) -> Measured:
    worst = 0.0
    for seed in range(3):
        pre, a = _problem(1.0, seed)
        exact = _sequential(pre, a)
        for count in (1, 2, 3):
            found = _solve(pre, a, count).h[:, : count + 1]
            worst = max(worst, float((found - exact[:, : count + 1]).abs().max()))
    return Measured(worst, seeds=3)


def _affine(setting: Setting) -> Measured:
    import torch

    from statewise.ops import Cell, newton_scan

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 300, 5, dtype=torch.float64, generator=generator)
    a = torch.randn(5, 5, dtype=torch.float64, generator=generator) / 5
    cell = Cell(lambda h, x: h @ a + x, size=5)
    found = newton_scan(cell, x, iterations=1, tolerance=0.0).h
    h, exact = torch.zeros(2, 5, dtype=torch.float64), []
    for k in range(x.shape[1]):
        h = h @ a + x[:, k]
        exact.append(h)
    return Measured(float((found - torch.stack(exact, 1)).abs().max()))


def _divergence(setting: Setting) -> Measured:
    right, details = 0, {}
    for spread, iterations in ((8.0, 4), (0.1, 6)):
        for seed in range(5):
            pre, a = _problem(spread, seed)
            found = _solve(pre, a, iterations, None)
            error = float((found.h - _sequential(pre, a)).abs().max())
            right += found.converged == (error < 1e-6)
            details[f"error, spread {spread:g}, seed {seed}"] = error
    return Measured(right / 10, details, seeds=5)


def _layer(setting: Setting) -> Measured:
    import torch

    from statewise.nn import ParaGRU, ParaLSTM

    worst = {}
    for kind in (ParaGRU, ParaLSTM):
        layer = kind(8, seed=0).double()
        generator = torch.Generator().manual_seed(1)
        u = torch.randn(2, 300, 8, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            y, state, steps = layer(u)[0], layer.init_state(2), []
            for k in range(u.shape[1]):
                sample, state = layer.step(u[:, k], state)
                steps.append(sample)
        worst[kind.__name__] = float((torch.stack(steps, 1) - y).abs().max())
    return Measured(max(worst.values()), worst)


def _gradients(setting: Setting) -> Measured:
    import torch

    pre, a = _problem(0.5, 0)
    grads = []
    for solve in (lambda p, w: _solve(p, w, 12, None).h, _sequential):
        leaves = [x.clone().clamp(-3, 3).requires_grad_() for x in (pre, a)]
        h = solve(*leaves)
        weights = torch.linspace(-1, 1, h.numel(), dtype=h.dtype).view_as(h)
        grads.append(torch.autograd.grad((h * weights).sum(), leaves))
    gaps = [float((x - y).abs().max() / y.abs().max()) for x, y in zip(*grads, strict=True)]
    return Measured(max(gaps))


PAPER = Paper(
    name="pararnn",
    title="ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models",
    identifier="arXiv:2510.21450",
    year=2025,
    says=(
        "A nonlinear recurrence over a sequence is one system of equations; Newton's method turns "
        "it into a few linear scans, so that gated cells train in parallel."
    ),
    uses=("nn.ParaGRU", "nn.ParaLSTM", "ops.newton_scan", "ops.para_gru", "ops.para_lstm"),
    claims=(
        Claim(
            name="four-iterations",
            statement=(
                "With recurrent weights within ±0.5 four iterations give the sequential run: "
                "largest difference over 200 steps."
            ),
            measure=_few_iterations,
            must=at_most(1e-6),
        ),
        Claim(
            name="exact-prefix",
            statement=(
                "After k iterations the first k + 1 steps are exact, whatever the weights: largest "
                "difference there."
            ),
            measure=_exact_prefix,
            must=at_most(1e-12),
        ),
        Claim(
            name="affine-in-one",
            statement="An affine recurrence is solved in one iteration: largest difference.",
            measure=_affine,
            must=at_most(1e-10),
        ),
        Claim(
            name="divergence-is-reported",
            statement=(
                "Weights of standard deviation 8 make it diverge and weights of 0.1 do not, and "
                "the answer says which: share of ten runs that it judges rightly."
            ),
            measure=_divergence,
            must=at_least(1.0),
        ),
        Claim(
            name="gradients",
            statement=(
                "The gradient by the implicit function theorem is that of backpropagation through "
                "time: largest relative difference."
            ),
            measure=_gradients,
            must=at_most(1e-8),
        ),
        Claim(
            name="layers-step-alike",
            statement=(
                "ParaGRU and ParaLSTM give over a sequence what they give step by step: largest "
                "difference over 300 steps."
            ),
            measure=_layer,
            must=at_most(1e-10),
        ),
    ),
)
