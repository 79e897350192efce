"""Weighing of particles and choice of their ancestors, in one call a step."""

from statewise.ops.particle_step.op import ParticleSteps, ancestors, particle_steps

__all__ = ["ParticleSteps", "ancestors", "particle_steps"]
