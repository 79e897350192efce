"""``statewise simulate``: run a model on inputs alone."""

from __future__ import annotations

from collections.abc import Sequence

from statewise.cli.options import parse
from statewise.cli.using import OutputOptions, deliver, open_model, unmeasured

SUMMARY = """\
Run a model on inputs alone (free run).

Measured outputs, where DATA has them, are written beside the simulated ones.
"""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(OutputOptions, arguments, "simulate", SUMMARY)
    from statewise.cli.signals import check_path

    check_path(options.out)
    model, records = open_model(options, measured=False)
    computed = {
        name: model.simulate_experiments(unmeasured(part, len(model.output_names_)))
        for name, part in records.parts.items()
    }
    deliver(options, "simulate", model, records.parts, computed, "simulated")
