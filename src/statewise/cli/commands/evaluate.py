"""``statewise evaluate``: score a model on measured records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import arg

from statewise.cli.console import UsageError, output, print_json
from statewise.cli.options import parse
from statewise.cli.using import UseOptions, open_model

SUMMARY = "Score a model on measured records, in free run or k steps ahead."


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(UseOptions):
    """Options of ``statewise evaluate``."""

    mode: Annotated[str, arg(metavar="simulation|K")] = "simulation"
    """Free run, or predictions K steps ahead."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(EvaluateOptions, arguments, "evaluate", SUMMARY)
    mode = _mode(options.mode)
    model, records = open_model(options, measured=True)
    scores = [
        item
        for name, part in records.parts.items()
        for item in model.evaluate(part, mode, split=name, **records.about)
    ]
    if options.json:
        found = {"command": "evaluate", "model": options.model, "data": options.data}
        print_json({**found, "scores": [item.to_dict() for item in scores]})
        return
    from statewise.cli.tables import print_scores

    print_scores(output(), [{"method": "", **dataclasses.asdict(item)} for item in scores])


def _mode(word: str) -> str | int:
    if word == "simulation":
        return word
    if word.isdecimal() and int(word) >= 1:
        return int(word)
    raise UsageError(f"--mode is simulation or a number of steps, 1 or more; given {word!r}")
