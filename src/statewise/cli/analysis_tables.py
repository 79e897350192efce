"""Tables of what ``statewise analyze`` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from statewise.cli.console import jsonable
from statewise.cli.linear_tables import pole_table, table_of
from statewise.cli.tables import number

if TYPE_CHECKING:
    from rich.console import Console

_SLOWEST = 8
_MEANINGS = ("time_constants", "natural_frequencies", "damping")


def show(console: Console, numbers: Mapping[str, Any]) -> None:
    """Print the answers.

    Args:
        console: where to.
        numbers: as in ``analysis.json``.
    """
    found = jsonable(numbers)
    unit = found["time_unit"]

    def line(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    step = "" if found["dt"] is None else f", one step is {number(found['dt'])} {unit}"
    line(f"{found['kind']}: {', '.join(found['inputs'])} to {', '.join(found['outputs'])}{step}\n")
    if found["blocks"]:
        console.print(_blocks(found["blocks"], unit, found["memory"]["fraction"]))
    for one in found["blocks"]:
        kind = "" if one["linear"] else ", linearised"
        console.print(pole_table(_slowest(one), unit, f"{one['name']}{kind}: {_which(one)}"))
    bound = found["gain"]
    if bound["certified"]:
        line(f"gain      at most {number(bound['bound'])} in energy, certified")
    else:
        line("gain      no finite bound is known")
    for reason in bound["reasons"]:
        line(f"          {reason}")
    look = found["memory"]
    share = f"{100 * look['fraction']:.3g} %"
    line(f"memory    {share} of the impulse response within {_time(look['model'], unit)}")
    if look["horizon"] is not None:
        line(
            f"          {share} of the squared gradients on data within "
            f"{_time(look['horizon'], unit)}"
        )
    _operating_point(line, found)
    if found["sensitivity"]:
        console.print()
        console.print(_sensitivity(found["sensitivity"], found, unit))
    for text in found["warnings"]:
        line(f"warning   {text}")


def _blocks(rows: Sequence[Mapping[str, Any]], unit: str, fraction: float) -> Any:
    names = ["block", "states", "needed", f"slowest [{unit}]", f"memory [{unit}]", "gain bound"]
    cells = [
        [
            one["name"],
            str(one["states"]),
            "–" if one["needed"] is None else str(one["needed"]),
            number(max((t for t in one["time_constants"] if t is not None), default=None)),
            _infinite(one["memory"]),
            _infinite(one["gain"]),
        ]
        for one in rows
    ]
    return table_of(
        "blocks (needed: Hankel value above 1 % of the largest; "
        f"memory: {100 * fraction:.3g} % of the impulse response)",
        names,
        cells,
    )


def _operating_point(line: Any, found: Mapping[str, Any]) -> None:
    point = found["operating_point"]
    if point is None:
        return
    word = "stable" if point["stable"] else "not stable"
    line(
        f"point     {_signals(found, 'input', point['u'])} gives "
        f"{_signals(found, 'output', point['y'])}, {word}"
    )
    if point["constant_gain"] is None:
        return
    for i, row in enumerate(point["constant_gain"]):
        parts = [
            f"{number(value)} by {name}" for value, name in zip(row, found["inputs"], strict=True)
        ]
        line(f"          constant gain to {found['outputs'][i]}: {', '.join(parts)}")


def _signals(found: Mapping[str, Any], kind: str, values: Sequence[float]) -> str:
    parts = []
    for name, unit, value in zip(found[f"{kind}s"], found[f"{kind}_units"], values, strict=True):
        parts.append(f"{name} {number(value)} {unit}".rstrip())
    return ", ".join(parts)


def _sensitivity(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], unit: str) -> Any:
    units = dict(zip(found["outputs"], found["output_units"], strict=True))
    cells = [
        [
            row["output"],
            row["input"],
            f"{number(row['effect'])} {units[row['output']]}".rstrip(),
            f"{100 * row['share']:.1f}",
            number(row["peak_lag"]),
            number(row["mean_lag"]),
        ]
        for row in rows
    ]
    names = ["output", "input", "effect", "share [%]", f"peak [{unit}]", f"mean lag [{unit}]"]
    return table_of("inputs (effect of one standard deviation)", names, cells, left=2)


def _slowest(one: Mapping[str, Any]) -> dict[str, Any]:
    """The first poles, largest modulus first, one of each pair."""
    re, im = one["poles"]["re"], one["poles"]["im"]
    kept = [k for k in range(len(re)) if im[k] >= 0][:_SLOWEST]
    found = {key: [one[key][k] for k in kept] for key in _MEANINGS}
    return {**found, "poles": {"re": [re[k] for k in kept], "im": [im[k] for k in kept]}}


def _which(one: Mapping[str, Any]) -> str:
    count = sum(value >= 0 for value in one["poles"]["im"])
    return "poles" if count <= _SLOWEST else f"the {_SLOWEST} slowest of {count} poles"


def _infinite(value: float | None) -> str:
    """Numbers lose infinity on their way through JSON."""
    return "∞" if value is None else number(value)


def _time(value: float | None, unit: str) -> str:
    return "an infinite time" if value is None else f"{number(value)} {unit}"
