"""What commands write that end in a table: a folder with numbers as JSON, figures and models."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statewise._files import atomic_folder, write_text
from statewise.cli.console import UsageError, jsonable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from statewise.data import Experiments

DPI = 150


@contextlib.contextmanager
def result_folder(out: str, *, force: bool, own: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``out`` when the block succeeds.

    Args:
        out: the folder.
        force: replace a result that is there.
        own: names of files and folders that the command writes; with others beside them nothing is
            replaced. An ending such as ``*.png`` stands for all.

    Raises:
        UsageError: see :func:`check_folder`.
    """
    check_folder(out, force=force, own=own)
    with atomic_folder(Path(out).expanduser()) as temporary:
        yield temporary


def check_folder(out: str, *, force: bool, own: Sequence[str]) -> None:
    """Refuse to overwrite, before anything is computed.

    Raises:
        UsageError: ``out`` is a file, holds a result without ``force``, or holds other files.
    """
    path = Path(out).expanduser()
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder")
    held = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
    if not held:
        return
    patterns = [Path(name) for name in own]
    others = [name for name in held if not any(Path(name).match(str(p)) for p in patterns)]
    if others:
        raise UsageError(f"--out {out} holds other files ({others[0]}); give another folder")
    if not force:
        raise UsageError(
            f"{out} holds a result already; give another --out, or --force to replace it"
        )


def write_json(values: Any, path: Path) -> None:
    """Write numbers as JSON; what is not finite becomes null."""
    text = json.dumps(jsonable(plain(values)), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=DPI)


def plain(given: Any) -> Any:
    """Dataclasses as mappings, and complex numbers as {"re", "im"}; tensors as arrays."""
    value: Any = given
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return {f.name: plain(getattr(given, f.name)) for f in dataclasses.fields(given)}
    if type(value).__module__.partition(".")[0] == "torch":
        value = value.detach().cpu().numpy()
    if hasattr(value, "dtype") and value.dtype.kind == "c":
        return {"re": value.real, "im": value.imag}
    if isinstance(value, complex):
        return {"re": value.real, "im": value.imag}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def with_context(experiments: Experiments, samples: int) -> Experiments:
    """Records whose first samples, at most a quarter, only set the initial state."""
    return experiments.map(
        lambda record: record.with_fields(skip=max(record.skip, min(samples, len(record) // 4)))
    )
