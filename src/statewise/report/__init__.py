"""The report of an identification: one HTML file that needs no network, and its JSON twin."""

from statewise.report.certainty import BandTrace, Certainty, Moments, Share
from statewise.report.collect import collect
from statewise.report.comparison import response_comparison
from statewise.report.content import (
    Channel,
    DataSummary,
    LayerSummary,
    ModelSummary,
    Part,
    PathSummary,
    ReductionCurve,
    Reference,
    ReportData,
    ResponseComparison,
    ScoreTableRow,
    Trace,
)
from statewise.report.findings import findings
from statewise.report.layers import layer_summaries, pulse_memory
from statewise.report.page import render_html, write_report
from statewise.report.path import path_summary, small_signal_response, steady_state
from statewise.report.shrinking import reduction_curve
from statewise.report.twin import to_json

__all__ = [
    "BandTrace",
    "Certainty",
    "Channel",
    "DataSummary",
    "LayerSummary",
    "ModelSummary",
    "Moments",
    "Part",
    "PathSummary",
    "ReductionCurve",
    "Reference",
    "ReportData",
    "ResponseComparison",
    "ScoreTableRow",
    "Share",
    "Trace",
    "collect",
    "findings",
    "layer_summaries",
    "path_summary",
    "pulse_memory",
    "reduction_curve",
    "render_html",
    "response_comparison",
    "small_signal_response",
    "steady_state",
    "to_json",
    "write_report",
]
