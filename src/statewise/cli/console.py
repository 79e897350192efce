"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class UsageError(ValueError):
    """A command line that cannot be understood."""


class Stopped(KeyboardInterrupt):
    """The user stopped a command; the message says how to go on."""


def output() -> Console:
    """The console on standard output, without highlighting of numbers."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def say(text: str) -> None:
    """Tell the user something that is not the result, on standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, style="dim", soft_wrap=True)


def complain(text: str) -> None:
    """Print an error, in red where there are colours, on standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(
        f"error: {text}", markup=False, style="red", soft_wrap=True
    )


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; NaN and infinity become null."""
    text = json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)
    # A pipe that cannot show a character gets its escape, which is the same JSON.
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = json.dumps(jsonable(value), allow_nan=False)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def jsonable(value: Any) -> Any:
    """Turn arrays, numbers, paths and mappings into what JSON holds."""
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "dtype"):  # an array or number of numpy, which need not be imported here
        if value.dtype.kind == "M":
            return [None if item == "NaT" else item for item in value.astype(str).tolist()]
        return jsonable(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value)


def sentence(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror.lower()}"
    text = " ".join(str(error).split())
    return text or type(error).__name__
