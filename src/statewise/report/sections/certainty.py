"""How sure the model is of its outputs: intervals, and what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from statewise.report.certainty import Certainty, Moments, Share
from statewise.report.content import ReportData
from statewise.report.figures.bands import bands
from statewise.report.figures.residuals import MAX_PANELS, correlations
from statewise.report.markup import Html, el, join, section, table
from statewise.report.sections.residuals import verdict, verdicts
from statewise.report.words import count, exact, number, split_name

#: Points that the share inside may differ from the one asked for.
CLOSE = 5.0
#: Outputs with a table of their own.
TABLES = 4


def certainty_section(data: ReportData) -> Html | None:
    """Shares inside the intervals, bands over two stretches, and tests of the innovations."""
    found = data.certainty
    if found is None:
        return None
    asked = f"{exact(found.interval)} %"
    judged = f"{found.judged_on} data"
    unseen = ", which the training has not seen" if found.judged_on == "validation" else ""
    if "left-out" in found.judged_on:
        unseen = ", each part simulated by a model that was trained without it"
    channels = list(dict.fromkeys(share.channel for share in found.shares))
    pieces: list[Any] = [
        el(
            "p",
            "Measurements correct the simulation as they come in, and the errors that remain give "
            f"every output an interval. It should hold {asked} of the measurements, one sample "
            f"ahead as well as many; how wide it must be for that was found on {judged}{unseen}.",
        ),
        el("ul", *(_judged(found, name) for name in channels[:MAX_PANELS]), cls="verdicts"),
    ]
    for index, channel in enumerate(dict.fromkeys(trace.channel for trace in found.bands)):
        own = [trace for trace in found.bands if trace.channel == channel]
        caption = (
            f"{channel}, {split_name(found.split)}. One step ahead, a band is made from the inputs "
            "up to its sample and the measurements before it."
        )
        if any(trace.origin < len(trace.mean) for trace in own):
            caption += (
                " Behind the dashed line no measurement is used any more; the inputs are known."
            )
        pieces.append(bands(f"bands-{index}", own, found.interval, caption))
    if found.states:
        pieces.append(bands("bands-states", found.states, found.interval, _states(found)))
    pieces.append(el("h3", f"How many measurements are inside {asked} intervals?"))
    for channel in channels[:TABLES]:
        label = f"{channel}: " if len(channels) > 1 else ""
        pieces.append(_tables(found, channel, label))
    left = "" if len(channels) <= TABLES else " Other outputs are in the JSON twin of this page."
    pieces.append(
        el(
            "p",
            "Percent of the measurements. Held out: the first half of every record is judged by "
            "what the second gave, and the other way round. Before calibration: normal intervals "
            f"of the fitted noise levels.{left}",
            cls="note",
        )
    )
    return section("certainty", "How sure is it?", *pieces, *_innovations(found))


def _states(found: Certainty) -> str:
    """What the figure of the states shows."""
    what = (
        "What measurements tell of the error of the simulation, the state of the observer"
        if found.observer == "ErrorNoise"
        else "What measurements tell of the states that are least known beside how far they move"
    )
    return (
        f"{what}, on the scale of the model, in the stretch of the forecast. These intervals are "
        "normal ones of the fitted noise levels."
    )


def _judged(found: Certainty, channel: str) -> Html:
    """The share one sample ahead on the test, in words."""
    rows = [
        share
        for share in found.shares
        if (share.split, share.channel, share.way, share.horizon)
        == (found.split, channel, "ahead", 1)
    ]
    if not rows:
        return verdict(None, f"{channel} was not measured on {split_name(found.split)}.")
    share = rows[0]
    difference = share.inside - found.interval
    said = (
        f"{number(share.inside, 3)} % of {count(share.count)} measurements of {channel} on "
        f"{split_name(found.split)} are inside the {exact(found.interval)} % intervals one sample "
        "ahead"
    )
    if difference < -CLOSE:
        return verdict(False, f"{said}: they are too narrow for these data.", "✗ narrow")
    if difference > CLOSE:
        return verdict(None, f"{said}: they are wider than these data ask for.", "– wide")
    return verdict(True, f"{said}.")


def _tables(found: Certainty, channel: str, label: str) -> Html:
    own = [share for share in found.shares if share.channel == channel]
    ahead = [share for share in own if share.way == "ahead"]
    inside = [share for share in own if share.way == "inside"]
    test = {share.horizon: share for share in ahead if share.split == found.split}
    judged = split_name(found.judged_on)
    pieces = [
        table(
            ["samples ahead", "before calibration", "held out", found.split],
            [
                [
                    count(row.horizon),
                    _percent(row.before),
                    _percent(row.inside),
                    _percent(test[row.horizon].inside) if row.horizon in test else "–",
                ]
                for row in ahead
                if row.split == found.judged_on
            ],
            caption=f"{label}forecasts, on {judged} and {found.split}",
            numeric=(1, 2, 3),
            cls="slim",
        )
    ]
    if inside:
        pieces.append(
            table(
                ["samples from a measurement", "before calibration", "held out"],
                [
                    [_range(inside, i), _percent(r.before), _percent(r.inside)]
                    for i, r in enumerate(inside)
                ],
                caption=f"{label}inside gaps, on {judged}",
                numeric=(1, 2),
                cls="slim",
            )
        )
    return el("div", *pieces, cls="pair")


def _range(rows: Sequence[Share], index: int) -> str:
    """Distances that a row stands for, such as 4 to 7."""
    low = rows[index].horizon
    if index + 1 == len(rows):
        return f"{low} and more" if low > 1 else "1"
    high = rows[index + 1].horizon - 1
    return f"{low}" if high == low else f"{low} to {high}"


def _percent(value: float) -> str:
    return number(value, 3)


def _innovations(found: Certainty) -> list[Html]:
    """Whiteness and normality of what measurements tell anew."""
    if not found.whiteness:
        return []
    tests = list(found.whiteness)
    share = f"{100 * tests[0].confidence:g} %"
    said = [verdict(test.passed, test.sentence) for test in tests]
    said += [_normal(one, tests[0].confidence) for one in found.moments]
    return [
        el("h3", "Is anything left to predict?"),
        el(
            "p",
            "Innovations are the errors one sample ahead over the deviation that was expected. If "
            "nothing is left they are white. Intervals are made from quantiles of such errors, so "
            "they hold whether these are normal or not.",
        ),
        verdicts(said, sum(test.passed is True for test in tests), len(said)),
        correlations(
            "innovations",
            tests,
            [f"Innovations of {test.channel}" for test in tests],
            f"Correlation at each lag. Bounds hold {share} of the values of zero correlation.",
        ),
    ]


def _normal(one: Moments, confidence: float) -> Html:
    if math.isnan(one.normal_p):
        return verdict(None, f"There are too few innovations of {one.channel} to say more.")
    passed = one.normal_p >= 1 - confidence
    tails = "heavy" if one.excess > 0 else "light"
    return verdict(
        passed,
        join(
            [
                f"The innovations of {one.channel} {'look' if passed else 'are not'} normal: mean "
                f"{number(one.mean, 3)}, deviation {number(one.deviation, 3)}, skewness "
                f"{number(one.skewness, 3)}, excess kurtosis {number(one.excess, 3)}",
                "." if passed else f" ({tails} tails).",
            ]
        ),
    )
