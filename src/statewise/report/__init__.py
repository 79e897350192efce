"""The report of an identification: one HTML file that needs no network, and its JSON twin."""

from statewise.report.collect import collect
from statewise.report.content import (
    Channel,
    DataSummary,
    LayerSummary,
    ModelSummary,
    Part,
    PathSummary,
    Reference,
    ReportData,
    ScoreTableRow,
    Trace,
)
from statewise.report.layers import layer_summaries
from statewise.report.page import render_html, write_report
from statewise.report.path import path_summary, small_signal_response, steady_state
from statewise.report.twin import to_json

__all__ = [
    "Channel",
    "DataSummary",
    "LayerSummary",
    "ModelSummary",
    "Part",
    "PathSummary",
    "Reference",
    "ReportData",
    "ScoreTableRow",
    "Trace",
    "collect",
    "layer_summaries",
    "path_summary",
    "render_html",
    "small_signal_response",
    "steady_state",
    "to_json",
    "write_report",
]
