"""What each parameter is for, and the optimiser groups that follow."""

from __future__ import annotations

from typing import Any

from torch import nn

DYNAMIC_ROLES = frozenset({"A", "B", "dt"})
"""Roles of the parameters that set the recurrence: lower rate, no weight decay."""


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """The role of every parameter: "A", "B", "C", "D", "dt", "bias" or "weight".

    A module names the roles of its own parameters in a class attribute ``roles``, and may name one
    of a part, as in ``{"dt_proj.bias": "dt"}``; parameters that no module names are "bias" when
    they have one axis and "weight" otherwise.

    Args:
        model: any module.

    Returns:
        Role by parameter name, as in ``model.named_parameters()``.
    """
    named: dict[str, str] = {}
    for prefix, module in model.named_modules():
        declared: dict[str, str] = getattr(module, "roles", {})
        for name, role in declared.items():
            # A module is met before its parts: what it says of them goes before their own word.
            named.setdefault(f"{prefix}.{name}" if prefix else name, role)
    return {
        name: named.get(name, "bias" if parameter.ndim <= 1 else "weight")
        for name, parameter in model.named_parameters()
    }


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, dynamics_factor: float = 0.5
) -> list[dict[str, Any]]:
    """Optimiser groups by role.

    Poles, input gains and time steps train at ``dynamics_factor · lr`` without weight decay, as in
    the published recipes of S4, S5 and LRU; biases, scales and direct terms of one number a channel
    have no decay.

    Args:
        model: any module.
        lr: learning rate of the maps.
        weight_decay: weight decay of the maps.
        dynamics_factor: ratio of the learning rate of the dynamics to ``lr``.

    Returns:
        Groups for a torch optimiser, empty ones left out.
    """
    roles = parameter_roles(model)
    groups: dict[str, dict[str, Any]] = {
        "dynamics": {"params": [], "lr": lr * dynamics_factor, "weight_decay": 0.0},
        "maps": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "biases": {"params": [], "lr": lr, "weight_decay": 0.0},
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        role = roles[name]
        plain = role in ("bias", "scale") or (role == "D" and parameter.ndim <= 1)
        group = "dynamics" if role in DYNAMIC_ROLES else "biases" if plain else "maps"
        groups[group]["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]
