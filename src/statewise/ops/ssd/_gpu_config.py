"""How the Triton kernels of ``ssd`` are cut and launched: a pure function of type and shape.

Nothing is timed when a kernel runs, so that results depend on the inputs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from statewise.ops.gpu import cdiv, interpreting, next_power_of_2

PROGRAMS = 264
"""Programs that fill the device: two on each of the 132 multiprocessors of an H100."""


@dataclass(frozen=True)
class Launch:
    """Warps of a program and depth of its software pipeline."""

    warps: int
    stages: int


@dataclass(frozen=True)
class Config:
    """Sizes of a launch.

    Attributes:
        block: steps of a block, Q; divides the chunk between two kept states.
        tile: columns of P in a program.
        lanes: columns that N states are padded to.
        programs: walks over time wanted at once; time is cut in segments to get them.
        gradient_programs: programs wanted of readers and sources; the heads of a group are split
            among several to get them.
        scan, walk, gradients: launches of the scans that write an output, of those that only
            carry the state, and of readers and sources.
    """

    block: int
    tile: int
    lanes: int
    programs: int
    gradient_programs: int
    scan: Launch
    walk: Launch
    gradients: Launch


def configuration(dtype: torch.dtype, width: int, states: int, packed: bool) -> Config:
    """The sizes for a working type, a head dimension P, N states, and whether there are resets.

    A bfloat16 program takes at most half of the registers and, up to N = 128, of the shared
    memory of a multiprocessor, so that two hide each other's latency. The wider types multiply in
    several passes over operands of two and four times the size; they take smaller tiles, smaller
    still as N grows, so that B, C and the state fit. Triton's interpreter takes the smallest
    blocks, so that small tests cross their edges.

    Hopper's warp-group products read their second operand through a descriptor in registers. For
    some operands of 16 or 32 columns the assembler of CUDA 12.8 (Triton 3.6) adds the lower half of
    the descriptor to its upper half, and the product reads other numbers or none. All have 64.
    """
    lanes = next_power_of_2(max(states, 16))
    tile = min(next_power_of_2(max(width, 16)), 64)
    if interpreting():
        return Config(16, 16, lanes, PROGRAMS, 1, Launch(4, 1), Launch(4, 1), Launch(4, 1))
    if dtype == torch.bfloat16:
        warps, stages = (4, 1 if packed else 2) if lanes <= 128 else (8, 1)
        return Config(
            *(64, 64, max(lanes, 64), PROGRAMS, 256),
            scan=Launch(warps, 2),
            walk=Launch(warps, 2),
            gradients=Launch(warps, stages),
        )
    room = 8192 // lanes // (2 if dtype == torch.float64 else 1)
    side = max(16, min(room, 32))
    launch = Launch(8 if lanes > 32 else 4, 1)
    return Config(side, min(tile, side), lanes, PROGRAMS, 256, launch, launch, launch)


def segments(walks: int, blocks: int, programs: int) -> tuple[int, int]:
    """Segments of time, and blocks in each, for ``walks`` independent walks over all blocks.

    A second pass over the inputs pays for segments, so there are none where the walks alone fill
    half of the device; a segment has at least four blocks.
    """
    per = cdiv(blocks, max(1, min(programs // walks, blocks // 4)))
    return cdiv(blocks, per), per


def heads_together(batch_blocks: int, groups: int, heads: int, programs: int) -> int:
    """How many of the ``heads`` heads of a group one program of the last kernel takes."""
    together = heads
    while together > 1 and batch_blocks * groups * (heads // together) < programs:
        together = next(k for k in range(together - 1, 0, -1) if heads % k == 0)
    return together
