"""How the documentation is built: Sphinx with MyST pages, API pages from the docstrings."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import typing
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
from figures import draw_lengths, draw_page  # beside this file

from statewise import __version__
from statewise.papers.pages import write_pages

project = "Statewise"
author = "The Statewise authors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"Statewise {release}"
html_show_sphinx = False

# Docstrings are written to be read in a terminal. A bar, a star or a trailing underscore in their
# sentences is mathematics or a name, not markup, unless it stands between backquotes.
_QUOTED = re.compile(r"(``.+?``|`[^`]+`_{0,2})", flags=re.DOTALL)
# A letter with a full stop that stands alone, as in ``d_state: N.``, would begin a list.
_LETTER = re.compile(r"^(\s*(?:\w+: )?[A-Za-z])\.(?=\s|$)")
_FIELD = re.compile(r"^\s*\w+_(?=:| \()")


def _escape(text: str) -> str:
    text = "\n".join(_LETTER.sub(r"\1\\.", line) for line in text.split("\n"))
    pieces = _QUOTED.split(text)
    for index in range(0, len(pieces), 2):
        piece = re.sub(r"(?<!\\)\|", r"\|", pieces[index])
        piece = re.sub(r"(?<!\\)\*(?=\S)", r"\*", piece)
        pieces[index] = re.sub(r"(?<=\w)_(?![\w`])", r"\_", piece)
    return "".join(pieces)


def _code_lines(lines: list[str]) -> list[bool]:
    """Which lines are code: literal blocks after ``::`` and doctests up to their blank line."""
    code: list[bool] = []
    indent: int | None = None
    doctest = False
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if indent is not None and line.strip() and depth <= indent:
            indent = None
        doctest = bool(line.strip()) and (doctest or line.lstrip().startswith(">>>"))
        code.append(doctest or (indent is not None and bool(line.strip())))
        if indent is None and line.rstrip().endswith("::"):
            indent = depth
    return code


def _escape_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    code = _code_lines(lines)
    start = 0
    for is_code, group in itertools.groupby(code):
        stop = start + len(list(group))
        if not is_code:
            old = lines[start:stop]
            for index, new in enumerate(_escape("\n".join(old)).split("\n")):
                field = _FIELD.match(old[index])
                # Napoleon reads the name of a field as it stands and escapes it itself.
                lines[start + index] = (
                    new if field is None else old[index][: field.end()] + new[field.end() + 1 :]
                )
        start = stop


def _evaluate_hints(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Turn the hints of a constructor from text into types, whose names are never ambiguous."""
    # A name that is imported for type checkers alone has no value here.
    with contextlib.suppress(NameError, TypeError, AttributeError):
        obj.__annotations__ = typing.get_type_hints(obj)


def _write_pages(app: Sphinx) -> None:
    """Write what is measured or drawn; none of it is kept in the repository."""
    source = Path(app.srcdir)
    write_pages(source / "papers")
    measured = source.parent / "benchmarks" / "results" / "lengths-cpu.json"
    draw_lengths(measured, source / "measured" / "lengths-cpu.svg")
    for page in ("what-did-my-model-learn.md", "particle-gibbs.md"):
        draw_page(source / "guides" / page, source / "measured")


_navigation: dict[tuple, str] = {}


def _share_navigation(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Let the pages of source code, hundreds, share their navigation, which is slow to make."""
    if page in app.env.all_docs or "toctree" not in context:
        return
    make, depth = context["toctree"], page.count("/")

    def shared(**options: Any) -> str:
        # Its links are relative, and of all pages none is the current one.
        key = (depth, *sorted(options.items()))
        if key not in _navigation:
            _navigation[key] = make(**options)
        return _navigation[key]

    context["toctree"] = shared


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _write_pages)
    app.connect("autodoc-before-process-signature", _evaluate_hints)
    # Before napoleon (500), which adds markup of its own.
    app.connect("autodoc-process-docstring", _escape_docstring, priority=400)
    # Before the theme (500), which asks for the navigation.
    app.connect("html-page-context", _share_navigation, priority=400)
