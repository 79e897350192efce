"""What identification of a linear system is asked for, and what it gives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from statewise.lti.weightings import WEIGHTINGS

if TYPE_CHECKING:
    from statewise.lti import SubspaceResult

Array = npt.NDArray[np.float64]

POLYNOMIAL = ("arx", "armax", "oe", "bj")
METHODS = ("auto", *WEIGHTINGS, "refine", *POLYNOMIAL)
CRITERIA = ("bic", "aic", "mdl", "gap")
LARGEST = 10
FREQUENCIES = 200


@dataclasses.dataclass(frozen=True)
class Settings:
    """What identification is asked to do; see :class:`LinearSystem`."""

    order: int | None
    method: str
    criterion: str | None
    largest_order: int
    delay: int
    radius: float | None
    horizon: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A linear system in innovation form, of scaled signals, and what the method knows of it.

    Attributes:
        matrices: A, B, K, C and D.
        covariance: of the innovations, (p, p).
        order: the order that was given or chosen.
        scores: the criterion of the orders 1, 2, …; empty when the order was given.
        singular_values: those of the subspace method, descending; empty without one.
        coefficients: of polynomials, (name, value, standard error), without leading ones.
        poles: with standard deviations where the method gives them.
        pole_deviation: of ``poles``.
        omega: frequencies in radians per sample, (F,); empty without deviations.
        response_deviation: standard deviation of the response there, (F, p, m).
        converged: whether an iteration ended at a minimum.
        reason: why it ended.
        how: what a search settled on, in words; empty without one.
        subspace: the model, where it is one of a subspace method.
    """

    matrices: tuple[Array, Array, Array, Array, Array]
    covariance: Array
    order: int
    scores: dict[int, float]
    singular_values: Array
    coefficients: list[tuple[str, float, float]]
    poles: npt.NDArray[np.complex128]
    pole_deviation: Array
    omega: Array
    response_deviation: Array
    converged: bool
    reason: str
    how: str = ""
    subspace: SubspaceResult | None = None


def frequencies() -> Array:
    """Where responses are described, in radians per sample."""
    return np.geomspace(1e-3, 1.0, FREQUENCIES) * np.pi


def checked(estimator: Any, n_y: int) -> Settings:
    """The settings among the parameters of an estimator.

    Raises:
        ValueError: what no method can do.
    """
    settings = Settings(
        **{field.name: getattr(estimator, field.name) for field in dataclasses.fields(Settings)}
    )
    if settings.method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; given {settings.method!r}")
    if settings.criterion is not None and settings.method == "auto":
        raise ValueError(
            f'criterion is {settings.criterion!r}; method "auto" chooses the order by simulations '
            f"of samples that were held out, and takes none"
        )
    if settings.criterion not in (None, *CRITERIA):
        raise ValueError(f"criterion is one of {', '.join(CRITERIA)}; given {settings.criterion!r}")
    for name in ("order", "largest_order", "horizon"):
        value = getattr(settings, name)
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} is a whole number of at least 1; given {value!r}")
    state_space = settings.method not in ("arx", "armax", "oe", "bj")
    if settings.delay < 0 or (state_space and settings.delay > 1):
        bound = "0 or 1 with a state-space method" if state_space else "0 or more"
        raise ValueError(f"delay is {bound}; given {settings.delay}")
    if settings.radius is not None and not 0 < settings.radius < 1:
        raise ValueError(f"radius is between 0 and 1; given {settings.radius}")
    if not state_space and n_y > 1:
        raise ValueError(
            f"{settings.method} is for one output, the records have {n_y}; a subspace method or "
            '"refine" takes several'
        )
    return settings


def channel_of(name: str) -> int:
    """The input of a coefficient such as b2[0]; that of b[0] is the first."""
    number = name[1:].partition("[")[0]
    return int(number) - 1 if number else 0


def matched(poles: Any, found: Any, deviation: Array) -> Array:
    """The deviation of the nearest pole that has one; NaN where none is near."""
    result = np.full(len(poles), np.nan)
    if len(deviation):
        gap = np.abs(poles[:, None] - found[None])
        near = gap.argmin(1)
        there = gap[np.arange(len(poles)), near] <= 1e-6 * (1 + np.abs(poles))
        result[there] = deviation[near[there]]
    return result
