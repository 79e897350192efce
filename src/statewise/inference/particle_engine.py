"""Which engine carries a particle filter through time, and the one that is compiled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from statewise.inference.moments import spread
from statewise.inference.particle_formulas import Data, Formulas, formulas
from statewise.inference.particle_methods import Bootstrap
from statewise.inference.particle_result import ParticleResult, ParticleSummary
from statewise.inference.trace_rules import Refused
from statewise.ops import particle_loop

if TYPE_CHECKING:
    from statewise.inference.particle import StateSpaceModel

Engine = Literal["auto", "eager", "compiled"]
ENGINES = ("auto", "eager", "compiled")

SHORT = 30
"""Steps from which reading a model costs less than what the compiled engine saves."""

_log = logging.getLogger("statewise")
_told: set[str] = set()


def _tell(level: int, engine: str, reason: str) -> None:
    """Once for each reason."""
    if reason not in _told:
        _told.add(reason)
        _log.log(level, "particle_filter: the %s engine runs, because %s", engine, reason)


def choose(
    engine: Engine, model: StateSpaceModel, method: Bootstrap, scheme: object, data: Data
) -> Formulas | None:
    """The model as formulas for the compiled engine; None for the eager one.

    Raises:
        ValueError: the compiled engine was asked for, and cannot run.
    """
    if engine == "eager" or (engine == "auto" and data.y.shape[1] < SHORT):
        return None
    level, found = logging.INFO, None
    if type(method) is not Bootstrap:
        reason = f"the method is {type(method).__name__}, and only Bootstrap is compiled"
    elif not isinstance(scheme, str):
        reason = f"{type(scheme).__name__} is a resampling of your own"
    elif data.x.device.type != "cpu":
        reason = f"the data are on the {data.x.device.type} device"
    else:
        try:
            found = formulas(model, data)
            reason = "the model is two formulas"
        except Refused as refusal:
            level, reason = logging.WARNING, str(refusal)
    if found is None and engine == "compiled":
        raise ValueError(f"engine is 'compiled', but {reason}")
    _tell(level, "eager" if found is None else "compiled", reason)
    return found


def through(
    model: StateSpaceModel,
    given: Formulas,
    data: Data,
    missing: Tensor,
    *,
    key: int,
    scheme: str,
    threshold: float,
    keep: str,
    valid: Tensor,
) -> ParticleResult | ParticleSummary:
    """Filter all steps with the compiled engine.

    Args:
        model: the model.
        given: it as formulas.
        data: particles of the first step, outputs and inputs.
        missing: which outputs are, (B, T, p).
        key: of the random numbers.
        scheme: how ancestors are chosen.
        threshold: as for ``particle_filter``.
        keep: likewise.
        valid: which steps are before the end of their series, (B, T).
    """
    seen = ~(missing.any(-1, keepdim=True) if given.whole else missing)
    found = particle_loop(
        data.x,
        data.y,
        given.move,
        given.weigh,
        seen=seen,
        inputs=data.u,
        ends=valid.sum(1).clamp_min(1) - 1,
        key=key,
        scheme=scheme,
        threshold=threshold,
        history=keep == "all",
        covariances=keep == "cov",
    )
    likelihoods = torch.where(valid, found.log_likelihoods.mT, 0.0)
    rest = (likelihoods, found.ess.mT, model, data.u, valid)
    if found.particles is not None and found.ancestors is not None:
        x, logs, rows = found.particles, found.log_weights, found.ancestors
        kept = (x.transpose(0, 1), logs.transpose(0, 1), rows.transpose(0, 1))
        return ParticleResult(*kept, *rest, engine="compiled")
    assert found.means is not None
    moments = [None if x is None else x.transpose(0, 1) for x in (found.means, found.covs)]
    mean, cov = (None if x is None else spread(valid, x, torch.zeros_like(x)) for x in moments)
    assert mean is not None
    last = (found.last, found.last_log_weights)
    return ParticleSummary(mean, cov, *last, *rest, engine="compiled")
