"""Reduced systems as layers: diagonal again, on the kernels of every other linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from statewise.lti import StateSpace, from_diagonal, hinf_norm, to_diagonal
from statewise.lti.diagonal_form import DiagonalForm
from statewise.nn import FFT, LTI, Auto, Bank, Dense, Layer, LayerSpec, PolarDiagonal, Scan
from statewise.nn.coupling import BankCoupling
from statewise.nn.modes import layer_modes
from statewise.nn.poles import PolarDiagonalPoles

IDLE = 0.5
"""Pole of a state that nothing drives or reads."""
STEPS = 12
"""Sizes of a perturbation that are tried, a decade apart."""
WORST = 1e-3
"""Largest error of a diagonal form relative to the system."""


class UnwritableError(ValueError):
    """A reduced system that is no layer: not stable, or with no diagonal form near it."""


class Place(NamedTuple):
    """Where a layer stands, and how it runs there.

    Attributes:
        d_input: input channels.
        d_output: output channels.
        bank: whether each channel has a system of its own.
        simulator: how sequences are run.
        bias: the bias b, (d_output,), or None.
        weight: a tensor of the type and on the device of the parameters.
        training: whether the layer is in training.
    """

    d_input: int
    d_output: int
    bank: bool
    simulator: Scan | FFT | Auto
    bias: Tensor | None
    weight: Tensor
    training: bool

    @classmethod
    def of(cls, layer: Layer, *, bank: bool) -> Place:
        """The place of a layer; one that is no LTI layer has neither simulator nor bias."""
        lti = isinstance(layer, LTI)
        return cls(
            layer.d_input,
            layer.d_output,
            bank,
            layer.simulator if lti else Auto(),
            layer.bias if lti else None,
            layer.coupling.B if lti else next(layer.parameters()),
            layer.training,
        )


def written(reduced: Sequence[StateSpace | DiagonalForm], place: Place) -> LTI:
    """A layer that runs reduced systems, in the place of another one.

    Poles are written as :class:`~statewise.nn.PolarDiagonal`, which holds every one inside the
    unit circle: of conjugate pairs one state is kept, real poles are single. The output of a layer
    uses the updated state, so B is divided by the pole; one closer to 0 than ε^½, with ε the
    rounding unit of the type, is moved out to there, an error of ε^½ ‖c‖‖b‖ about. A matrix
    without independent eigenvectors is perturbed by the size, 10⁻¹⁴ to 10⁻³ of its norm, that
    gives the least error.

    Args:
        reduced: the system, or one for each channel of a bank.
        place: where the layer that it replaces stands.

    Raises:
        UnwritableError: a system that is not stable, or of which no diagonal form is near.
    """
    dtype = place.weight.dtype
    singles = [_single(system, dtype) for system in reduced]
    states = max(1, *(layer.d_state for layer in singles))
    made = LTI(
        place.d_input,
        place.d_output,
        states,
        poles=PolarDiagonal(),
        coupling=Bank() if place.bank else Dense(),
        simulator=place.simulator,
        bias=place.bias is not None,
    )
    made.to(device=place.weight.device, dtype=dtype)
    assert isinstance(made.poles, PolarDiagonalPoles)
    nu, theta, b, c, d = (
        torch.stack(p) for p in zip(*(_parts(s, states) for s in singles), strict=True)
    )
    with torch.no_grad():
        made.poles.nu.copy_(nu.flatten())
        made.poles.theta.copy_(theta.flatten())
        # (H, N, 1, 2) and (H, 1, N, 2) for a bank; a dense layer is the only one of its list.
        made.coupling.B.copy_(b.squeeze(2) if place.bank else b[0])
        made.coupling.C.copy_(c.squeeze(1) if place.bank else c[0])
        assert made.D is not None
        made.D.copy_(d.flatten() if place.bank else d[0])
        if made.bias is not None and place.bias is not None:
            made.bias.copy_(place.bias)
    made.train(place.training)
    return made


def layer_spec(layer: LTI) -> LayerSpec:
    """A layer that :func:`written` made, as data."""
    options = {
        "d_state": layer.d_state,
        "poles": PolarDiagonal(),
        "coupling": Bank() if isinstance(layer.coupling, BankCoupling) else Dense(),
        "simulator": layer.simulator,
        "bias": layer.bias is not None,
    }
    return LayerSpec("LTI", options)


def _parts(layer: LTI, states: int) -> tuple[Tensor, ...]:
    """ν, θ, B, C and D of a dense layer with idle states to make them ``states``."""
    assert isinstance(layer.poles, PolarDiagonalPoles)
    assert layer.D is not None
    more = states - layer.d_state
    idle = torch.tensor(IDLE, dtype=torch.float64).log().neg().log().item()
    pad = torch.nn.functional.pad
    return (
        pad(layer.poles.nu.detach(), (0, more), value=idle),
        pad(layer.poles.theta.detach(), (0, more)),
        pad(layer.coupling.B.detach(), (0, 0, 0, 0, 0, more)),
        pad(layer.coupling.C.detach(), (0, 0, 0, more)),
        layer.D.detach(),
    )


def _single(reduced: StateSpace | DiagonalForm, dtype: torch.dtype) -> LTI:
    """A dense layer of one system."""
    if isinstance(reduced, DiagonalForm):
        return _layer(reduced, dtype)
    if reduced.n_states:
        largest = torch.linalg.eigvals(reduced.A).abs().max().item()
        if not largest < 1:
            raise UnwritableError(
                f"a reduced system has a pole of modulus {largest:.9g}, outside the unit circle; "
                f"another order or method is needed"
            )
    eps = torch.finfo(dtype).eps
    first = _diagonal(reduced)
    if first is not None and _condition(reduced) < eps**-0.5:
        return _layer(first, dtype)
    size = float(hinf_norm(reduced, tolerance=1e-6).upper)
    best, least = None, WORST * size
    for form in (first, *(_diagonal(_perturbed(reduced, 10.0 ** (k - 14))) for k in range(STEPS))):
        if form is None or not (form.poles.abs() < 1).all():
            continue
        layer = _layer(form, dtype)
        error = float(hinf_norm(reduced - from_diagonal(layer_modes(layer))).upper)
        if error <= least:
            best, least = layer, error
    if best is None:
        raise UnwritableError(
            f"a reduced system of {reduced.n_states} states has no diagonal form: its eigenvectors "
            f"have condition {_condition(reduced):.3g}, and every perturbation of A that separates "
            f"them changes the system by more than {WORST:g} of its gain; another order or method "
            f"is needed"
        )
    return best


def _condition(system: StateSpace) -> float:
    if not system.n_states:
        return 1.0
    return float(torch.linalg.cond(torch.linalg.eig(system.A)[1]))


def _diagonal(system: StateSpace) -> DiagonalForm | None:
    """The modes, one of each conjugate pair; None where eigenvectors are dependent."""
    try:
        return to_diagonal(system, half=True)
    except ValueError:
        return None


def _perturbed(system: StateSpace, size: float) -> StateSpace:
    """The system with a random change of A of relative norm ``size``, always the same one."""
    draw = torch.Generator().manual_seed(0)
    E = torch.randn(system.A.shape, generator=draw, dtype=torch.float64)
    E = E * (torch.linalg.matrix_norm(system.A, 2).cpu() / torch.linalg.matrix_norm(E, 2))
    A = system.A + size * E.to(system.A)
    return StateSpace(A, system.B, system.C, system.D, system.dt)


def _layer(form: DiagonalForm, dtype: torch.dtype) -> LTI:
    """The textbook system of some modes as a dense layer in ``dtype``."""
    floor = torch.finfo(dtype).eps ** 0.5
    poles = form.poles.detach()
    size = poles.abs()
    turn = torch.where(size > 0, poles / size.clamp_min(1e-300), torch.ones_like(poles))
    poles = torch.where(size < floor, floor * turn, poles)
    B, C = form.B.detach() / poles.unsqueeze(-1), form.C.detach()
    # A white input of variance 1 gives states of about that size, as in the LRU.
    norm = torch.linalg.vector_norm(B, dim=-1)
    scale = (1 - poles.abs() ** 2).sqrt() / norm.clamp_min(1e-300)
    scale = torch.where(norm > 0, scale, torch.ones_like(scale))
    B, C = B * scale.unsqueeze(-1), C / scale
    m, p, states = B.shape[-1], C.shape[-2], len(poles)
    layer = LTI(m, p, max(1, states), poles=PolarDiagonal(), coupling=Dense())
    layer.to(dtype=dtype, device=form.B.device)
    assert isinstance(layer.poles, PolarDiagonalPoles)
    assert layer.D is not None
    if not states:
        poles = torch.full((1,), IDLE, dtype=torch.complex128, device=form.B.device)
        B, C = poles.new_zeros(1, m), poles.new_zeros(p, 1)
    with torch.no_grad():
        layer.poles.place(poles)
        layer.coupling.B.copy_(torch.view_as_real(B.resolve_conj()))
        layer.coupling.C.copy_(torch.view_as_real(C.resolve_conj()))
        # From the weights as they were rounded, so that B C/λ and D cancel as they should.
        b, c = (torch.view_as_complex(M.double()) for M in (layer.coupling.B, layer.coupling.C))
        layer.D.copy_(form.D - (c @ b).real)
    return layer
