"""The linear map of a few rows as a function of tensors: checks, types, and the operator."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import check_shape, floating, optional_tensors, require_tensors
from statewise.ops.matvec._library import OP, multiply


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear map y = x Wᵀ + bias of a few rows x, at the rate at which memory gives W.

    What ``torch.nn.functional.linear`` computes; on the CPU its product of a few rows by a large
    matrix may read memory at half the rate that the machine has. All arguments promote to one type.

    Args:
        x: rows, (B, K).
        weight: W, (M, K).
        bias: (M,), or None for zero.

    Returns:
        y, (B, M).

    Raises:
        ValueError: a shape that does not fit.
        TypeError: a type that is not real floating-point.

    Example:
        >>> import torch
        >>> matvec(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[11.0, 2.0]]
    """
    require_tensors(OP, x=x, weight=weight)
    optional_tensors(OP, bias=bias)
    if x.dim() != 2 or weight.dim() != 2:
        raise ValueError(
            f"{OP}: x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; they must be "
            "(B, K) and (M, K)"
        )
    check_shape(OP, "weight", weight, (weight.shape[0], x.shape[1]), f"x of {tuple(x.shape)}")
    given = {"x": x, "weight": weight}
    if bias is not None:
        check_shape(OP, "bias", bias, weight.shape[:1], f"weight of {tuple(weight.shape)}")
        given["bias"] = bias
    dtype = x.dtype
    for label, one in given.items():
        floating(OP, label, one)
        dtype = torch.promote_types(dtype, one.dtype)
    return multiply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
