"""The entry point: which command was asked for, and what happens when it fails."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence

from statewise._errors import StatewiseError
from statewise._version import __version__
from statewise.cli.console import Stopped, UsageError, complain, print_json, say, sentence

DEBUG = "STATEWISE_DEBUG"

#: Command → module of :mod:`statewise.cli.commands`, and what it does.
COMMANDS = {
    "fit": ("fit", "identify a model from measured inputs and outputs"),
    "identify linear": ("identify_linear", "identify a linear model, in seconds"),
    "simulate": ("simulate", "run a model on inputs alone"),
    "predict": ("predict", "look k steps ahead along a measured record"),
    "filter": ("filter", "predict one step ahead, with bands"),
    "smooth": ("smooth", "fill the gaps of a record, with bands"),
    "forecast": ("forecast", "forecast what follows a record, with bands"),
    "evaluate": ("evaluate", "score a model on measured records"),
    "compare": ("compare", "set models side by side on the same records"),
    "analyze": ("analyze", "say what a model has learnt: poles, gains, memory"),
    "reduce": ("reduce", "make a model smaller at a given loss of fit"),
    "report": ("report", "write the report of a model again"),
    "demo": ("demo", "identify the bundled river record, in minutes"),
    "data describe": ("describe", "say what a data file holds"),
    "papers": ("papers", "list the published systems inside and their claims"),
    "papers show": ("papers_show", "say what is claimed of a published system"),
    "papers check": ("papers_check", "measure the claims of a published system"),
    "doctor": ("doctor", "say what works on this machine, and why not"),
}

_EXAMPLES = """\
statewise demo
statewise fit motor.csv --inputs volt --outputs speed --out motor
statewise simulate motor new.csv --out simulated.csv
statewise evaluate motor new.csv --mode 3"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the name of the program; None takes those of the process.

    Returns:
        The exit status: 0 for success, 2 for a wrong command line or data that cannot be used,
        1 for a failure of the program itself, 3 when a claim of a paper fails, 130 when the user
        stopped it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _print_anything()
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except SystemExit as stop:  # after a help
        return int(stop.code or 0)
    except BrokenPipeError:
        return _closed_pipe()
    except KeyboardInterrupt as stop:
        said = sentence(stop) if isinstance(stop, Stopped) else "stopped"
        return _fail(said, 130, arguments)
    except (StatewiseError, ValueError, TypeError, OSError, ImportError) as error:
        _show_traceback()
        return _fail(sentence(error), 2, arguments)
    except Exception as error:
        _show_traceback()
        where = f"set {DEBUG}=1 to see where it happened"
        text = f"{type(error).__name__}: {sentence(error)} (a fault of statewise; {where})"
        return _fail(text, 1, arguments)
    return 0


def _print_anything() -> None:
    """Let a terminal that lacks a character show its code, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"statewise {__version__}")
        return
    command, rest = _command(arguments)
    module = importlib.import_module(f"statewise.cli.commands.{COMMANDS[command][0]}")
    module.run(rest)


def _command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command and the arguments behind it."""
    for count in (2, 1):
        name = " ".join(arguments[:count])
        if name in COMMANDS:
            return name, list(arguments[count:])
    first = arguments[0]
    if first.startswith("-"):
        raise UsageError(
            f"the command comes first, then its options; given {first!r} "
            f"(commands: {', '.join(COMMANDS)})"
        )
    group = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if group:
        if any(one in ("-h", "--help") for one in arguments[1:]):
            return group[0], ["--help"]
        raise UsageError(f"{first!r} needs a second word: statewise {group[0]}")
    near = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f" (commands: {', '.join(COMMANDS)})"
    raise UsageError(f"there is no command {first!r}{hint}")


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}} {summary}" for name, (_, summary) in COMMANDS.items()]
    commands, examples = "\n".join(lines), textwrap.indent(_EXAMPLES, "  ")
    return (
        "usage: statewise COMMAND ...\n\n"
        "State-space models, linear and deep: identify, simulate, predict, judge.\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n"
        f"  {'-h, --help':<{width}} show this help; after a command, the help of the command\n"
        f"  {'--version':<{width}} show the version\n\n"
        f"examples:\n{examples}"
    )


def _fail(text: str, status: int, arguments: Sequence[str]) -> int:
    try:
        if status == 130:
            say(text)
        else:
            complain(text)
        if "--json" in arguments:
            print_json({"error": text, "status": status})
    except BrokenPipeError:
        _closed_pipe()
    return status


def _show_traceback() -> None:
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exc()


def _closed_pipe() -> int:
    """Whoever read standard output has gone, as ``head`` does: end quietly."""
    # Python flushes standard output again at exit, which would complain.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    return 141
