"""``statewise predict``: look k steps ahead along a measured record."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import arg

from statewise.cli.console import UsageError
from statewise.cli.options import parse
from statewise.cli.using import OutputOptions, deliver, open_model

SUMMARY = """\
Predict K steps ahead along a measured record.

Outputs until t - K and inputs until t give the output at t.
"""


@dataclasses.dataclass(frozen=True)
class PredictOptions(OutputOptions):
    """Options of ``statewise predict``."""

    steps: Annotated[int, arg(metavar="K")] = 1
    """How many samples ahead."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(PredictOptions, arguments, "predict", SUMMARY)
    from statewise.cli.signals import check_path

    if options.steps < 1:
        raise UsageError(f"--steps is a number of samples, 1 or more; given {options.steps}")
    check_path(options.out)
    model, records = open_model(options, measured=True)
    parts = records.parts
    computed = {
        name: model.predict_experiments(part, options.steps) for name, part in parts.items()
    }
    plural = "s" if options.steps > 1 else ""
    word = f"predicted {options.steps} step{plural} ahead"
    deliver(options, "predict", model, parts, computed, word)
