"""Systems with diagonal dynamics, whole or with one state of each conjugate pair."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from statewise.lti.matrices import eigenvectors
from statewise.lti.state_space import StateSpace, checked_dt

WORST = 1e12


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalForm:
    """A system in its modes: x_{k+1} = λ ⊙ x_k + B u_k, and y_k = C x_k + D u_k.

    With ``half``, y_k = Re(C x_k) + D u_k: of each conjugate pair one state is kept, and ``C``
    holds the doubled row of it. In continuous time, the same with x' on the left.

    Attributes:
        poles: λ, (..., n), complex.
        B: input matrix, (..., n, m), complex.
        C: output matrix, (..., p, n), complex.
        D: direct term, (..., p, m); real with ``half``.
        dt: sampling time, or None for continuous time.
        half: whether conjugate states are implied.
    """

    poles: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt: float | None = None
    half: bool = False

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: shapes that do not fit, or a complex ``D`` with ``half``.
        """
        n, m, p = self.poles.shape[-1], self.B.shape[-1], self.C.shape[-2]
        expected = {"B": (n, m), "C": (p, n), "D": (p, m)}
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found[-2:] != shape:
                raise ValueError(
                    f"{name} has shape {tuple(found)}; {n} poles, {m} inputs and {p} outputs need "
                    f"(..., {shape[0]}, {shape[1]})"
                )
        if self.half and self.D.is_complex():
            raise ValueError("D is complex; a form that implies conjugate states has a real D")
        checked_dt(self.dt)

    @property
    def residues(self) -> Tensor:
        """R_i = C_{:,i} B_{i,:}, (..., n, p, m)."""
        return self.C.mT[..., :, None] * self.B[..., None, :]

    def completed(self) -> DiagonalForm:
        """The form with all states: {λ, λ̄}, B and B̄, [C, C̄]/2; itself if it has them."""
        if not self.half:
            return self
        C = self.C / 2
        return DiagonalForm(
            torch.cat((self.poles, self.poles.conj()), -1),
            torch.cat((self.B, self.B.conj()), -2),
            torch.cat((C, C.conj()), -1),
            self.D,
            self.dt,
        )

    def halved(self) -> DiagonalForm:
        """The form with one state of each conjugate pair, pairs first; itself if it is one.

        A batch gets as many states as its system with the fewest pairs needs; the others carry
        states that have no weight in the output.

        Raises:
            ValueError: poles that are no conjugate pairs.
        """
        if self.half:
            return self
        sign = self.poles.imag.sign()
        pairs, below = (sign > 0).sum(-1), (sign < 0).sum(-1)
        if not torch.equal(pairs, below):
            raise ValueError(
                f"conjugate pairs are needed; given {pairs.tolist()} poles above and "
                f"{below.tolist()} below the real axis"
            )
        self._check_real()
        order = torch.argsort((1 - sign).long(), dim=-1, stable=True)
        count = int(pairs.min()) if pairs.numel() else 0
        order = order[..., : self.poles.shape[-1] - count]
        # 2 for the upper one of a pair, 1 on the real axis, 0 for a lower one.
        scale = 1 + sign.gather(-1, order)
        m, p = self.B.shape[-1], self.C.shape[-2]
        rows = order[..., :, None].expand(*order.shape, m)
        columns = order[..., None, :].expand(*order.shape[:-1], p, order.shape[-1])
        C = self.C.expand(*order.shape[:-1], *self.C.shape[-2:]).gather(-1, columns)
        return DiagonalForm(
            self.poles.gather(-1, order),
            self.B.expand(*order.shape[:-1], *self.B.shape[-2:]).gather(-2, rows),
            C * scale[..., None, :],
            self.D.real if self.D.is_complex() else self.D,
            self.dt,
            half=True,
        )

    def _check_real(self) -> None:
        """Refuse a map that is not real: G(s̄) is the conjugate of G(s) for real ones."""
        if not self.D.numel():
            return
        size = self.poles.abs().amax() + 1 if self.poles.numel() else self.poles.new_ones(())
        for turn in (0.4 + 1.1j, -0.9 + 0.7j):
            values = []
            for point in (size * turn, size * turn.conjugate()):
                weighted = self.C / (point - self.poles)[..., None, :]
                values.append(weighted @ self.B + self.D)
            gap = (values[0] - values[1].conj()).abs().amax((-1, -2))
            scale = (weighted.abs() @ self.B.abs()).amax((-1, -2)) + self.D.abs().amax((-1, -2))
            limit = torch.finfo(gap.dtype).eps ** 0.5
            if (gap > limit * scale).any():
                raise ValueError(
                    "the poles and weights are no conjugate pairs, so that the system is not real"
                )


def to_diagonal(system: StateSpace, *, half: bool = False) -> DiagonalForm:
    """The modes of a system, A = V Λ V⁻¹: (λ, V⁻¹B, C V, D).

    Args:
        system: a system whose A has n independent eigenvectors.
        half: keep one state of each conjugate pair; the system must be real.

    Returns:
        The diagonal form; eigenvectors have unit length.

    Raises:
        ValueError: eigenvectors with a condition number above 10¹² (a defective A, which has no
            diagonal form), or ``half`` of a complex system.
    """
    if half and system.is_complex:
        raise ValueError("half=True keeps one of each conjugate pair, and the system is complex")
    poles, V = eigenvectors(system.A)
    if system.n_states:
        worst = torch.linalg.cond(V.detach()).max()
        if not worst <= WORST:
            raise ValueError(
                f"A is defective or nearly so: its eigenvectors have condition {worst.item():.3g}, "
                f"above {WORST:.0e}; a system of repeated poles has no diagonal form"
            )
    B, C = torch.linalg.solve(V, system.B.to(V.dtype)), system.C.to(V.dtype) @ V
    if not system.is_complex:
        # Rounding must not make a real state complex.
        real = poles.imag == 0
        B = torch.where(real[..., :, None], B.real.to(B.dtype), B)
        C = torch.where(real[..., None, :], C.real.to(C.dtype), C)
    form = DiagonalForm(poles, B, C, system.D, system.dt)
    return form.halved() if half else form


def from_diagonal(form: DiagonalForm, *, real: bool | None = None) -> StateSpace:
    """A system of matrices from its modes.

    Args:
        form: the modes.
        real: whether the matrices are to be real, with blocks [[Re λ, −Im λ], [Im λ, Re λ]]; a
            state that is real throughout stays one. None: real for a form with ``half``, else the
            complex diagonal matrix.

    Returns:
        The system; real states come as all real parts, then the imaginary parts.

    Raises:
        ValueError: real matrices of a form without ``half`` whose poles are no conjugate pairs,
            or complex matrices of one with ``half``.
    """
    if real is None:
        real = form.half
    if not real:
        if form.half:
            raise ValueError("real=False needs all states; form.completed() has them")
        return StateSpace(torch.diag_embed(form.poles), form.B, form.C, form.D, form.dt)
    form = form.halved()
    real_parts, imaginary = _parts(form.poles), _parts(form.poles, imaginary=True)
    state = [imaginary, _parts(form.B, imaginary=True).mT, _parts(form.C, imaginary=True)]
    wide = torch.zeros(form.poles.shape[-1], dtype=torch.bool, device=form.poles.device)
    for part in state:
        wide |= (part != 0).reshape(math.prod(part.shape[:-1]), part.shape[-1]).any(0)
    kept = wide.nonzero()[:, 0]
    n, batch = form.poles.shape[-1], form.poles.shape[:-1]
    A = torch.diag_embed(torch.cat((real_parts, real_parts[..., kept]), -1))
    turn = torch.zeros_like(A)
    count = torch.arange(len(kept), device=kept.device)
    turn[..., kept, n + count] = -imaginary[..., kept]
    turn[..., n + count, kept] = imaginary[..., kept]
    B = form.B.expand(*batch, *form.B.shape[-2:])
    C = form.C.expand(*batch, *form.C.shape[-2:])
    return StateSpace(
        A + turn,
        torch.cat((_parts(B), _parts(B, imaginary=True)[..., kept, :]), -2),
        torch.cat((_parts(C), -_parts(C, imaginary=True)[..., kept]), -1),
        form.D,
        form.dt,
    )


def _parts(x: Tensor, *, imaginary: bool = False) -> Tensor:
    if imaginary:
        return x.imag if x.is_complex() else torch.zeros_like(x)
    return x.real if x.is_complex() else x
