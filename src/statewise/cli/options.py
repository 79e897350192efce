"""From words on the command line to a dataclass of options, and from its mistakes to a sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_type_hints

import tyro

from statewise.cli.console import UsageError

T = TypeVar("T")

#: ``--flag`` alone for switches of a command; settings of a model take True or False.
_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
_WIDEST = 100


def parse(
    kind: type[T],
    arguments: Sequence[str],
    command: str,
    summary: str,
    *,
    default: T | None = None,
) -> T:
    """Read the options of a command.

    Args:
        kind: the dataclass of options.
        arguments: the words behind the command.
        command: the command, such as ``"data describe"``.
        summary: what the command does, for its help; paragraphs of one line each.
        default: options where the command line says nothing.

    Returns:
        The options.

    Raises:
        UsageError: words that cannot be understood; the message names them.
        SystemExit: the help was asked for and printed.
    """
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    with _readable_width():
        try:
            with contextlib.redirect_stderr(complaint):
                options, unknown = tyro.cli(
                    kind,
                    args=list(arguments),
                    prog=f"statewise {command}",
                    description=summary,
                    return_unknown_args=True,
                    config=_CONFIG,
                    **keywords,
                )
        except SystemExit as stop:
            if not stop.code:
                raise
            said = _short(_plain(complaint.getvalue()))
            raise UsageError(f"{said} (see statewise {command} --help)") from None
    if unknown:
        raise UsageError(_unknown(unknown[0], option_names(kind), command))
    return options


def option_names(kind: type[Any], prefix: str = "") -> list[str]:
    """Names of all options of a dataclass, such as ``--model.d-state``."""
    names = []
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        markers = getattr(hint, "__metadata__", ())
        inner = getattr(hint, "__origin__", hint)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            flat = tyro.conf.OmitArgPrefixes in markers
            names += option_names(inner, prefix if flat else f"{prefix}{field.name}.")
        elif tyro.conf.Positional not in markers:
            names.append(f"--{prefix}{field.name}".replace("_", "-"))
    return names


def _unknown(word: str, names: Sequence[str], command: str) -> str:
    see = f"see statewise {command} --help"
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: an option is missing before it, or quotes ({see})"
    given = word.partition("=")[0].replace("_", "-")
    # --d-state for --model.d-state
    near = [name for name in names if name.rpartition(".")[2] == given.lstrip("-")][:1]
    near = near or difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no option {word.partition('=')[0]}{hint} ({see})"


def _plain(text: str) -> str:
    """A boxed message on one line, without its border and its pointer to the help."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
        bare = line.strip().strip("│|").strip()
        if not bare or set(bare) <= set("─-=+╭╮╰╯"):
            continue
        if bare.startswith(("╭", "For full helptext")):
            continue
        if bare.startswith(("Full help", "Run ")) and "--help" in bare:
            continue
        lines.append(bare)
    return " ".join(" ".join(lines).split()).rstrip(".") or "the options cannot be understood"


def _short(text: str) -> str:
    """The complaints that newcomers meet most, in plain words."""
    text = text.partition(" Argument helptext:")[0]
    missing = re.search(r"Missing (?:from [^:]*:|value for argument) '?([\w.-]+)", text)
    if missing:
        what = "needs a value" if missing[1].startswith("-") else "is missing"
        return f"{missing[1]} {what}"
    wrong = re.search(r"Error parsing (\S+): (.*)", text)
    if wrong is None:
        return text
    for kind, opening in (
        ("a whole number", "invalid literal for int() with base 10: "),
        ("a number", "could not convert string to float: "),
    ):
        if wrong[2].startswith(opening):
            return f"{wrong[1]} takes {kind}; given {wrong[2].removeprefix(opening)}"
    return f"{wrong[1]}: {wrong[2]}"


@contextlib.contextmanager
def _readable_width() -> Iterator[None]:
    """Keep help from running over the whole of a very wide terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
