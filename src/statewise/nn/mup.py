"""How starts and learning rates scale with the size of a model, so that tuning carries over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from statewise.nn.roles import parameter_roles

KINDS = ("matrix", "vector", "selective B", "selective C")
OPTIMISERS = ("adam", "sgd")


class MupFactors(NamedTuple):
    """What multiplies the settings of a base model.

    Attributes:
        init: factor of the standard deviation of the start.
        sgd: factor of the learning rate of gradient descent.
        adam: factor of the learning rate of Adam.
    """

    init: float
    sgd: float
    adam: float

    def rate(self, optimiser: str) -> float:
        """The factor of the learning rate of ``"adam"`` or ``"sgd"``."""
        if optimiser not in OPTIMISERS:
            raise ValueError(f'the optimiser is "adam" or "sgd"; given {optimiser!r}')
        return self.adam if optimiser == "adam" else self.sgd


def mup_factors(kind: str, fan_in: float = 1.0, fan_out: float = 1.0) -> MupFactors:
    """The factors of a parameter whose fans grew by these ratios.

    ==============  ===================================  =====================  ====================
    kind            init                                 sgd                    adam
    ==============  ===================================  =====================  ====================
    "matrix"        fan_in^(−½) min(1, √(out/in))        fan_out / fan_in       1 / fan_in
    "vector"        1                                    fan_out                1
    "selective B"   fan_in^(−½)                          fan_out / fan_in       1 / fan_in
    "selective C"   fan_in^(−½) / fan_out                1 / (fan_in fan_out)   1 / (fan_in fan_out)
    ==============  ===================================  =====================  ====================

    The map W_C from N_u inputs to the N_x entries of C_t of a selective layer is the exception: y
    sums C_t over the states and ΔC_t is aligned with them, so that without 1/N_x the update of y
    grows with N_x. The entries assume states of like decay, as with the Euler rule and A near a
    constant; with A = −1 … −N_x and a zero-order hold fast states count for little, and the
    factor 1/N_x is more than is needed.

    Sources: Yang and Hu, tensor programs (2011.14522), for matrices and vectors; the rows of
    selective layers are derived from forward and backward signals after Vankadara et al., On
    feature learning in structured state space models (NeurIPS 2024), whose own table they may not
    equal.

    Args:
        kind: one of :data:`KINDS`.
        fan_in: inputs over those of the base model.
        fan_out: outputs over those of the base model; N_x for the selective kinds.

    Raises:
        ValueError: an unknown kind, or a ratio that is not positive.
    """
    if not (fan_in > 0 and fan_out > 0):
        raise ValueError(f"ratios are positive; given fan_in = {fan_in}, fan_out = {fan_out}")
    if kind == "vector":
        return MupFactors(1.0, fan_out, 1.0)
    if kind == "matrix":
        start = fan_in**-0.5 * min(1.0, (fan_out / fan_in) ** 0.5)
        return MupFactors(start, fan_out / fan_in, 1 / fan_in)
    if kind == "selective B":
        return MupFactors(fan_in**-0.5, fan_out / fan_in, 1 / fan_in)
    if kind == "selective C":
        rate = 1 / (fan_in * fan_out)
        return MupFactors(fan_in**-0.5 / fan_out, rate, rate)
    raise ValueError(f"a kind is one of {', '.join(KINDS)}; given {kind!r}")


def mup_groups(
    model: nn.Module,
    base: nn.Module,
    lr: float,
    *,
    optimiser: str = "adam",
    weight_decay: float = 0.0,
    kinds: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Optimiser groups of a model whose learning rate was tuned at the size of ``base``.

    Parameters with the roles "A", "D", "dt", "bias" and "scale" are vectors, all others matrices
    of (outputs, inputs) unless ``kinds`` says something else. Decay is decoupled as in AdamW: it is
    divided by the factor of the rate, so that rate times decay stays; vectors have none.

    A weight in which maps of several kinds are packed, as those to Δ, B and C of Mamba, has a group
    of its own with "slices" of rows (start, stop, factor of the group's rate), which an optimiser
    honours behind :func:`mup_slices`.

    Args:
        model: the model to train.
        base: the same kind of model at the base size; its numbers are not read, so that it may be
            made on the device "meta".
        lr: learning rate of the base model.
        optimiser: "adam" or "sgd".
        weight_decay: decay of the matrices of the base model.
        kinds: kinds by parameter name, such as ``{"read.weight": "selective C"}``.

    Returns:
        Groups for a torch optimiser, one for each pair of rate and decay.

    Raises:
        ValueError: models whose parameters do not match, an unknown kind or optimiser.
    """
    sizes = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    roles, kinds = parameter_roles(model), {} if kinds is None else dict(kinds)
    unknown = set(kinds) - set(roles)
    if unknown:
        raise ValueError(f"kinds names parameters that the model has not: {sorted(unknown)}")
    packs, small_packs = _packs(model), _packs(base)
    groups: dict[tuple[float, float, tuple], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        small = sizes.get(name)
        if small is None or len(small) != parameter.ndim:
            raise ValueError(
                f"the base model has no parameter {name} with {parameter.ndim} axes; it must "
                f"differ from the model in sizes alone"
            )
        if not parameter.requires_grad:
            continue
        kind = kinds.get(name, _kind(roles[name], parameter.ndim))
        ratios = [big / little for big, little in zip(parameter.shape, small, strict=True)]
        out = ratios[0] if ratios else 1.0
        fan_in = ratios[1] if len(ratios) > 1 else 1.0
        slices: tuple[tuple[int, int, float], ...] = ()
        if name in packs and name not in kinds:
            rates = [
                (start, stop, mup_factors(one, fan_in, growth).rate(optimiser))
                for one, start, stop, growth in _rows(packs[name], small_packs[name])
            ]
            rate = rates[0][2]
            slices = tuple((start, stop, own / rate) for start, stop, own in rates)
        else:
            rate = mup_factors(kind, fan_in, out).rate(optimiser)
        decay = 0.0 if kind == "vector" else weight_decay / rate
        groups.setdefault((lr * rate, decay, slices), []).append(parameter)
    found = []
    for (rate, decay, slices), parameters in groups.items():
        group: dict[str, Any] = {"params": parameters, "lr": rate, "weight_decay": decay}
        found.append(group | ({"slices": slices} if slices else {}))
    return found


def mup_slices(optimiser: torch.optim.Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
    """Let an optimiser give every slice of a packed weight the rate that is its own.

    Optimisers have one rate for a parameter. Here what a step has changed is multiplied in the
    rows of a slice by its factor, but for the decay, which is that of the group: the result is that
    of separate parameters. It holds for optimisers whose update is proportional to their rate and
    does not look at a whole parameter at once, such as AdamW and gradient descent.

    Args:
        optimiser: made with groups of :func:`mup_groups`.

    Returns:
        Handles whose ``remove`` ends it.
    """
    before: list[tuple[dict[str, Any], nn.Parameter, torch.Tensor]] = []

    def keep(given: torch.optim.Optimizer, *_: Any) -> None:
        before.clear()
        for group in given.param_groups:
            if any(factor != 1 for _, _, factor in group.get("slices", ())):
                before.extend((group, one, one.detach().clone()) for one in group["params"])

    @torch.no_grad()
    def scale(given: torch.optim.Optimizer, *_: Any) -> None:
        for group, parameter, old in before:
            if parameter.grad is None:
                continue
            lost = group["lr"] * group["weight_decay"]
            for start, stop, factor in group["slices"]:
                rows, was = parameter[start:stop], old[start:stop]
                rows.copy_(was + factor * (rows - was) - (1 - factor) * lost * was)
        before.clear()

    return (
        optimiser.register_step_pre_hook(keep),
        optimiser.register_step_post_hook(scale),
    )


@torch.no_grad()
def mup_start_(model: nn.Module, base: nn.Module) -> None:
    """Divide the rows of packed maps to C_t by the growth of the states, in place.

    All maps start with a spread of fan_in^(−½); that is the start of the table in
    :func:`mup_factors` but for the factor 1 / fan_out of "selective C".

    Args:
        model: the model to train, as it was drawn.
        base: the same kind of model at the base size.
    """
    small, parameters = _packs(base), dict(model.named_parameters())
    for name, parts in _packs(model).items():
        for kind, start, stop, growth in _rows(parts, small[name]):
            if kind == "selective C":
                parameters[name][start:stop] /= growth


def _packs(model: nn.Module) -> dict[str, tuple[tuple[str, int], ...]]:
    """Kinds and numbers of rows of packed weights, by parameter name."""
    return {
        f"{name}.{weight}" if name else weight: tuple(part for part in parts if part[1])
        for name, module in model.named_modules()
        for weight, parts in getattr(module, "packed", {}).items()
        if any(rows for _, rows in parts)
    }


def _rows(
    parts: tuple[tuple[str, int], ...], small: tuple[tuple[str, int], ...]
) -> list[tuple[str, int, int, float]]:
    """Kind, first row, row behind the last and growth of the rows of every part."""
    if [kind for kind, _ in parts] != [kind for kind, _ in small]:
        raise ValueError(
            f"the base model packs {', '.join(kind for kind, _ in small)} into a weight where the "
            f"model packs {', '.join(kind for kind, _ in parts)}"
        )
    found, start = [], 0
    for (kind, rows), (_, few) in zip(parts, small, strict=True):
        found.append((kind, start, start + rows, rows / few))
        start += rows
    return found


def _kind(role: str, axes: int) -> str:
    return "vector" if axes < 2 or role in ("A", "D", "dt", "bias", "scale") else "matrix"
