"""A particle filter over all steps in one call, for models that are formulas."""

from statewise.ops.particle_loop.op import LoopResult, particle_formula, particle_loop
from statewise.ops.particle_loop.program import Formula, Program
from statewise.ops.particle_loop.reference import steps_at_once

__all__ = ["Formula", "LoopResult", "Program", "particle_formula", "particle_loop", "steps_at_once"]
