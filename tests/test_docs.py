"""Every Python block of the README and of the documentation runs, page by page, top to bottom."""

from __future__ import annotations

import inspect
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from statewise import nn
from statewise.papers.pages import write_pages

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Training is cut short, since a page is checked for being runnable; its commands are otherwise as
# they stand.
QUICK = {"fit": ["--training.steps", "5", "--training.polish-steps", "0"]}
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>[^\n`]*)$")


class Block(NamedTuple):
    """A fenced block: its info string, its text and the line on which the text starts."""

    info: str
    text: str
    line: int


def _blocks(page: str) -> list[Block]:
    """Fenced blocks of a Markdown page, in order."""
    found: list[Block] = []
    lines = page.split("\n")
    index = 0
    while index < len(lines):
        opening = FENCE.match(lines[index])
        index += 1
        if opening is None:
            continue
        start = index
        closing = re.compile(rf"^ *{re.escape(opening['marks'])}\s*$")
        while index < len(lines) and not closing.match(lines[index]):
            index += 1
        assert index < len(lines), f"the fence before line {start + 1} never closes"
        inside = [line.removeprefix(opening["indent"]) for line in lines[start:index]]
        found.append(Block(opening["info"].strip(), "\n".join(inside), start + 1))
        index += 1
    return found


def _runnable(block: Block) -> bool:
    words = block.info.split()
    return bool(words) and (words == ["python"] or words == ["console", "run"])


def _run_commands(block: Block, where: str) -> None:
    """Run the ``$ statewise ...`` lines of a console block through the command line."""
    from statewise.cli import main

    commands = re.findall(r"^\$ ((?:.*\\\n)*.+)", block.text, flags=re.MULTILINE)
    assert commands, f"{where}, line {block.line}: no command in the block"
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))
        assert words[0] == "statewise", f"{where}, line {block.line}: {command}"
        status = main(words[1:] + QUICK.get(words[1], []))
        assert status == 0, f"{where}, line {block.line}: {command} failed"


def _run_python(blocks: list[Block], page: str, folder: Path) -> None:
    """Run blocks one after the other in one fresh interpreter, as a reader who starts there."""
    lines: list[str] = []
    for block in blocks:
        # At their own lines, so that a traceback names the line of the page.
        lines += [""] * (block.line - 1 - len(lines)) + block.text.split("\n")
    script = folder / f"{page}.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, f"a block of {page} fails:\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(map(_runnable, _blocks(page.read_text(encoding="utf-8"))))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_blocks_of_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = filter(_runnable, _blocks(page.read_text(encoding="utf-8")))
    for info, group in itertools.groupby(blocks, key=lambda block: block.info):
        if info == "python":
            _run_python(list(group), page.stem, tmp_path)
        else:
            for block in group:
                _run_commands(block, page.name)


def test_pages_use_known_blocks() -> None:
    known = {"console", "text", "python no-run", "toml", "yaml", "json", "makefile"}
    for page in PAGES:
        for block in _blocks(page.read_text(encoding="utf-8")):
            directive = block.info.startswith("{") and block.info.split("}")[0][1:]
            assert _runnable(block) or block.info in known or directive, (
                f"{page.name}, line {block.line}: a block marked {block.info!r}, expected python, "
                f"console run, or one of {', '.join(sorted(known))}"
            )


def test_links_between_pages_lead_somewhere(tmp_path: Path) -> None:
    # The pages of the papers are written when the documentation is built.
    made = {ROOT / "docs" / "papers" / path.name for path in write_pages(tmp_path)}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text):
            path = (page.parent / target).resolve()
            assert path in made or path.exists(), f"{page.name} links to {target}"


def test_every_layer_is_in_the_table() -> None:
    kinds = {
        name: kind
        for name, kind in ((name, getattr(nn, name)) for name in nn.__all__)
        if isinstance(kind, type)
        and issubclass(kind, nn.Layer)
        and "seed" in inspect.signature(kind).parameters
    }
    text = (ROOT / "docs" / "guides" / "layers.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.split("\n") if line.startswith("| `")]
    assert sorted(row[0].strip("`") for row in rows) == sorted(kinds)
    for name, *_, steps, _cost in rows:
        layer = kinds[name.strip("`")](64, seed=0)
        try:
            layer(torch.zeros(1, 2, 64), dt=torch.ones(1, 2))
            taken = {"yes", "as inner"}
        except ValueError:
            taken = {"no"}
        assert steps in taken, f"{name}: the table says {steps!r} for dt"


def test_fences_are_read() -> None:
    page = "a\n```python\nx = 1\n\ny = 2\n```\n  ````console run\n  $ statewise\n  ````\n```\n```\n"
    assert _blocks(page) == [
        Block("python", "x = 1\n\ny = 2", 3),
        Block("console run", "$ statewise", 8),
        Block("", "", 11),
    ]
    assert [_runnable(block) for block in _blocks(page)] == [True, True, False]
