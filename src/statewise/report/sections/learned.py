"""What the model learned in sentences, and how many of its states matter."""

from __future__ import annotations

from statewise.report.content import ReductionCurve, ReportData
from statewise.report.figures.states import hankel_values, reduction_figure
from statewise.report.findings import findings
from statewise.report.markup import Html, el, section, table
from statewise.report.words import count, number, split_name


def learned_section(data: ReportData) -> Html | None:
    """The findings as a list."""
    said = findings(data)
    if not said:
        return None
    return section("learned", "What the model learned", el("ul", *(el("li", one) for one in said)))


def states_section(data: ReportData) -> Html | None:
    """Hankel singular values, and the fit of reduced copies."""
    known = [layer for layer in data.layers if len(layer.hankel)]
    curve = data.reduction
    if not known and curve is None:
        return None
    parts = []
    if known:
        parts += [
            el("h3", "Hankel singular values"),
            hankel_values(
                data.layers,
                "How much each state of a block's linear system matters between its input and its "
                "output, between the normalised signals inside the model. Complex poles count two "
                "states. States far below the first can go, and twice the sum of the values left "
                "out bounds the error of the block.",
            ),
        ]
    if curve is not None:
        full = count(int(curve.states[0]))
        parts += [
            el("h3", "Smaller copies"),
            reduction_figure(
                curve,
                f"FIT of the free run on the {split_name(curve.split)} data of copies whose blocks "
                f"were reduced by balanced truncation, without training again; the last point is "
                f"the full model with {full} states.",
            ),
            _table(curve),
        ]
    return section(
        "states",
        "How many states matter",
        el(
            "p",
            "A model is often trained with more states than its data need, because that trains "
            "more easily. Here its linear systems are ranked and cut.",
        ),
        *parts,
    )


def _table(curve: ReductionCurve) -> Html:
    rows = [
        (count(int(states)), " + ".join(count(int(n)) for n in orders), number(float(fit)))
        for states, orders, fit in zip(curve.states, curve.orders, curve.fit, strict=True)
    ]
    return table(
        ["states", "per block", "FIT [%]"],
        rows,
        caption=f"Reduced copies on the {split_name(curve.split)} data",
        numeric=(0, 2),
        cls="slim",
    )
