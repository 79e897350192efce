"""The survey as a page of the documentation."""

from __future__ import annotations

from collections.abc import Collection

from statewise.nn.layer_spec import LayerSpec
from statewise.papers.survey import Architecture, architectures

TESTS = "tests/papers/test_survey.py"
"""Where every row that is here is built and run."""

_HEAD = """\
# Coverage map

One row for each architecture, or group of them, of the surveys
[2503.18970](https://arxiv.org/abs/2503.18970) and [2404.16112](https://arxiv.org/abs/2404.16112)
and of the line from HiPPO to Mamba. What is here is built from data: the classes below in a stack
of blocks, as in [choose and swap a layer](../guides/layers.md). An application is a configuration,
not a class.

`pytest {tests} -k TEST` builds a row by the name in the last column, and
holds that a sequence is the fold of single steps in float64, that gradients are finite and not
zero, that the state has the size below, and that the operators named are among those that ran. In
sizes, D is the width of the model, other letters are options.

The blocks of a row are those of a model, here of Samba:

```python
from statewise.models import SequenceModel, SequenceModelConfig
from statewise.papers import architectures

config = SequenceModelConfig(architectures()["samba"].blocks, repeat=2, d_model=16)
model = SequenceModel(2, 1, config)
```

A row says that the mechanism is here, not that published results were reached. What was measured
is in [published systems](index.md), to which names with a link lead.
"""


def coverage_page(known: Collection[str] = ()) -> str:
    """The page in MyST Markdown.

    Args:
        known: names of the papers that have a page beside it, to be linked.
    """
    rows = list(architectures().values())
    lines = [_HEAD.format(tests=TESTS)]
    for varies, title in ((False, "a fixed recurrence"), (True, "an input-dependent recurrence")):
        found = [row for row in rows if row.here and row.varies == varies]
        lines += [f"## Here, with {title}: {len(found)}", ""]
        lines += ["| architecture | built of | state | test |", "|---|---|---|---|"]
        lines += [_here(row, known) for row in found]
        lines += ["", *(f"- **{row.name}.** {row.note}" for row in found if row.note), ""]
    absent = [row for row in rows if not row.here]
    lines += [f"## Not here: {len(absent)}", ""]
    lines += ["| architecture | what is missing |", "|---|---|"]
    lines += [f"| {_what(row)} | {row.missing} |" for row in absent]
    return "\n".join([*lines, ""])


def _what(row: Architecture, known: Collection[str] = ()) -> str:
    paper = row.paper or row.key
    name = f"[{row.name}]({paper}.md)" if paper in known else row.name
    return f"**{name}** ({row.year}, {row.kind}): {row.definition}"


def _shown(spec: LayerSpec) -> str:
    """The layer with those inside it in brackets."""
    inside = [_shown(part) for part in spec.options.values() if isinstance(part, LayerSpec)]
    return f"{spec.layer}({', '.join(inside)})" if inside else spec.layer


def _here(row: Architecture, known: Collection[str]) -> str:
    names = [_shown(block.layer) for block in row.blocks] or [row.module.removeprefix("nn.")]
    built = " → ".join(f"`{name}`" for name in names)
    operators = ", ".join(f"`{name}`" for name in row.primitives)
    built += f" on {operators}" if operators else ""
    state = row.state.replace("*", "·").replace(" - ", "−") or "–"
    return f"| {_what(row, known)} | {built} | {state} | `{row.key}` |"
