"""The ParaGRU and ParaLSTM scans against loops of torch statements, eager and captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from operators.problem import Inputs, Problem, Way
from statewise import ops


def gru_loop(pre: Tensor, a: Tensor) -> Tensor:
    """A few torch statements a step."""
    h, out = pre.new_zeros(pre.shape[0], pre.shape[3]), []
    # Indexing pre[:, t] instead would make the backward pass quadratic in the length.
    for p in pre.unbind(1):
        z, r = torch.sigmoid(torch.addcmul(p[:, :2], a[:2], h.unsqueeze(1))).unbind(1)
        n = torch.tanh(torch.addcmul(p[:, 2], a[2], h * r))
        h = torch.lerp(h, n, z)
        out.append(h)
    return torch.stack(out, 1)


def lstm_loop(pre: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """A few torch statements a step."""
    h = c = pre.new_zeros(pre.shape[0], pre.shape[3])
    out = []
    for p in pre.unbind(1):
        f, g, o = torch.addcmul(p, a, h.unsqueeze(1)).unbind(1)
        c = torch.lerp(torch.tanh(g), c, torch.sigmoid(torch.addcmul(f, w[0], c)))
        h = torch.sigmoid(torch.addcmul(o, w[1], c)) * torch.tanh(c)
        out.append(h)
    return torch.stack(out, 1)


def captured(loop: Callable[..., Tensor], names: tuple[str, ...]) -> Way:
    """The loop as CUDA graphs of its forward and backward pass, recorded at the first call."""
    recorded: dict[Any, Callable[..., Tensor]] = {}

    def way(inputs: Inputs) -> Tensor:
        tensors = tuple(inputs[name] for name in names)
        key = tuple((x.shape, x.dtype) for x in tensors)
        if key not in recorded:
            samples = tuple(x.detach().clone().requires_grad_() for x in tensors)
            with torch.enable_grad():
                recorded[key] = torch.cuda.make_graphed_callables(loop, samples)
        with torch.enable_grad():
            # A captured pair is replayed with gradients or not at all.
            return recorded[key](*tensors).clone()

    return way


def _problem(kind: str, B: int, L: int, D: int, device: str) -> Problem:
    lstm = kind == "para_lstm"
    names = ("pre", "a", "w") if lstm else ("pre", "a")
    operator, loop = (ops.para_lstm, lstm_loop) if lstm else (ops.para_gru, gru_loop)

    def inputs(generator: torch.Generator) -> Inputs:
        found = {
            "pre": torch.randn(B, L, 3, D, generator=generator),
            "a": (torch.randn(3, D, generator=generator) / 2).clamp(-0.5, 0.5),
        }
        if lstm:
            found["w"] = (torch.randn(2, D, generator=generator) / 2).clamp(-0.5, 0.5)
        return found

    size = B * L * D
    exponentials = 4 if lstm else 3
    rivals: dict[str, Way] = {"torch loop": lambda x: loop(*(x[name] for name in names))}
    if device == "cuda":
        rivals["torch loop, CUDA graph"] = captured(loop, names)
    # Forward: read pre, write h (and c). Backward: read pre, h (and c) and ∂h, write ∂pre.
    moved = (4 + lstm) * size * 4, (12 + 2 * lstm) * size * 4
    return Problem(
        op=kind,
        label=f"({B}, {L}, {D})",
        dtype=torch.float32,
        inputs=inputs,
        run=lambda x: operator(*(x[name] for name in names))[0],
        moved=moved,
        differentiate=names,
        rivals=rivals,
        rates={"exp": (exponentials * size, 2 * exponentials * size)},
    )


def problems(device: str) -> list[Problem]:
    """The shape that the literature times, and on a GPU one with many channels."""
    shapes = [(8, 2048, 256), (64, 512, 1536)] if device == "cuda" else [(8, 512, 256)]
    return [_problem(kind, *each, device) for kind in ("para_gru", "para_lstm") for each in shapes]
