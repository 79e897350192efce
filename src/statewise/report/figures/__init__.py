"""Figures of the report: inline SVG in two sizes, in colours that follow the page."""

from statewise.report.figures.canvas import figure, legend

__all__ = ["figure", "legend"]
