"""Residual tests with verdicts in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from statewise.report.content import ReportData
from statewise.report.figures.residuals import MAX_PANELS, correlations
from statewise.report.markup import Html, el, join, section

_VERDICTS = {True: ("good", "✓ passed"), False: ("bad", "✗ failed"), None: ("none", "– no test")}


def residual_section(data: ReportData) -> Html | None:
    """Whiteness, and correlation with the inputs, each with its figure and its sentences."""
    white = list(data.residuals.get("whiteness", ()))
    inputs = list(data.residuals.get("input", ()))
    if not white and not inputs:
        return None
    pieces: list[Any] = [
        el(
            "p",
            "Residuals are the measured minus the simulated output on test data. If they correlate "
            "with past inputs, the inputs explain more than the model does: it can be improved. If "
            "they are merely not white, they hold slow disturbances that no input explains, which "
            "is common in free run and no fault of the model by itself.",
        )
    ]
    for key, tests, heading, titles in (
        (
            "input-correlation",
            inputs,
            "Do they correlate with the inputs?",
            [f"{test.input} → {test.channel}" for test in inputs],
        ),
        ("whiteness", white, "Are they white?", [f"Error of {test.channel}" for test in white]),
    ):
        if tests:
            pieces += _one(key, tests, heading, titles)
    return section("residuals", "What is left unexplained", *pieces)


def _one(key: str, tests: list[Any], heading: str, titles: list[str]) -> list[Html]:
    left = len(tests) - MAX_PANELS
    share = f"{100 * tests[0].confidence:g} %"
    caption = f"Correlation at each lag. Bounds hold {share} of the values of zero correlation."
    if left > 0:
        caption += f" {left} more are in the JSON twin of this page."
    return [
        el("h3", heading),
        verdicts(
            [verdict(test.passed, test.sentence) for test in tests],
            sum(test.passed is True for test in tests),
            len(tests),
        ),
        correlations(key, tests, titles, caption),
    ]


def verdicts(items: Sequence[Html], passed: int, total: int) -> Html:
    """A list of verdicts; folded away when there are many."""
    sentences = el("ul", *items, cls="verdicts")
    if len(items) <= MAX_PANELS:
        return sentences
    return el("details", el("summary", f"{passed} of {total} tests passed"), sentences)


def verdict(passed: bool | None, sentence: str, word: str = "") -> Html:
    """A sentence behind a badge, which may have a word of its own."""
    cls, usual = _VERDICTS[None if passed is None else bool(passed)]
    word = word or usual
    return el("li", join([el("span", word, cls=f"badge {cls}"), el("span", sentence)]))
