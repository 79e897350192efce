"""The sections of the page; each function gives markup, or None when there is nothing to say."""

from statewise.report.sections.certainty import certainty_section
from statewise.report.sections.dynamics import layers_section, path_section
from statewise.report.sections.identified import data_section, model_section
from statewise.report.sections.learned import learned_section, states_section
from statewise.report.sections.reproduce import reproduce_section
from statewise.report.sections.residuals import residual_section
from statewise.report.sections.scores import score_section
from statewise.report.sections.simulation import simulation_section
from statewise.report.sections.training import training_section

__all__ = [
    "certainty_section",
    "data_section",
    "layers_section",
    "learned_section",
    "model_section",
    "path_section",
    "reproduce_section",
    "residual_section",
    "score_section",
    "simulation_section",
    "states_section",
    "training_section",
]
