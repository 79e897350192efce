"""Folders of the command line: where a run keeps its result, and where a model is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statewise._errors import DataError
from statewise._files import write_text
from statewise.cli.console import UsageError

if TYPE_CHECKING:
    from statewise.estimators import ARX, FIR, LinearSystem, SystemIdentifier

FORMAT = 1
#: Estimators of :mod:`statewise.estimators` that are saved as folders.
KINDS = ("ARX", "FIR", "LinearSystem", "SystemIdentifier")


class RunFolder:
    """The folder of an identification.

    ``run.json`` says what was asked for and whether it is finished; ``checkpoint`` and
    ``log.jsonl`` grow while training; ``model``, ``report.html`` and ``report.json`` are the
    result.

    Args:
        path: the folder; it need not exist.

    Raises:
        UsageError: the path is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--out {path} is a file; expected a folder")
        self.model = self.path / "model"
        self.checkpoint = self.path / "checkpoint"
        self.note = self.path / "run.json"

    def read(self) -> dict[str, Any] | None:
        """What ``run.json`` says, or None when there is none.

        Raises:
            DataError: the file cannot be understood.
        """
        if not self.note.is_file():
            return None
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise DataError(f"{self.note} has format {found['format']!r}; expected {FORMAT}")
            return {**found, "settings": dict(found["settings"])}
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.note} cannot be understood: {error}") from error

    def finished(self, settings: dict[str, Any], *, force: bool, resume: bool) -> bool:
        """Whether the very result is there already; refuses to overwrite anything else.

        Args:
            settings: what is asked for.
            force: replace a result that is there.
            resume: go on with an interrupted run.

        Returns:
            True when nothing is left to do.

        Raises:
            UsageError: a result or an interrupted run that must not be overwritten, or one made
                with other settings.
        """
        if force and resume:
            raise UsageError("--force starts anew and --resume goes on; give one of them")
        if force:
            return False
        found = self.read()
        if found is None:
            if (self.model / "config.json").exists() or (self.path / "report.html").exists():
                raise UsageError(
                    f"{self.path} holds a result already; give another --out, or --force to "
                    "replace it"
                )
            return False
        if not resume:
            if found["finished"]:
                raise UsageError(
                    f"{self.path} holds a result already; give another --out, or --force to "
                    "replace it"
                )
            raise UsageError(
                f"{self.path} holds an interrupted run; add --resume to go on with it, or --force "
                "to start anew"
            )
        _compare(found["settings"], settings, self.path)
        return bool(found["finished"])

    def clear(self) -> None:
        """Remove what a run left, and nothing else."""
        for folder in (self.checkpoint, self.model):
            if folder.is_dir():
                shutil.rmtree(folder)
        for name in ("report.html", "report.json", "log.jsonl", "run.json"):
            (self.path / name).unlink(missing_ok=True)

    def write(self, command: str, settings: dict[str, Any], *, finished: bool) -> None:
        """Write ``run.json``."""
        note = {"format": FORMAT, "finished": finished, "command": command, "settings": settings}
        write_text(self.note, json.dumps(note, indent=2, ensure_ascii=False) + "\n")

    def finish(self, command: str, settings: dict[str, Any]) -> None:
        """Say that the result is there, then remove the checkpoint."""
        self.write(command, settings, finished=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)


def _compare(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    """Refuse to go on with other settings.

    Raises:
        UsageError: the first setting that differs.
    """
    fresh = json.loads(json.dumps(new))
    for name in (*fresh, *old):
        if old.get(name) != fresh.get(name):
            raise UsageError(
                f"{path} was made with {name} = {old.get(name)}, now it is {fresh.get(name)}; "
                "give the same options to --resume, or --force to start anew"
            )


def find_model(path: str) -> Path:
    """The folder of a model, given itself or the folder of the run that made it.

    Raises:
        UsageError: there is no model.
    """
    folder = Path(path).expanduser()
    for one in (folder, folder / "model"):
        if (one / "config.json").is_file():
            return one
    if not folder.exists():
        raise UsageError(f"there is no folder {path}; expected the --out of a fit, or a model")
    if not folder.is_dir():
        raise UsageError(f"{path} is a file; expected the folder of a model")
    if (folder / "run.json").is_file():
        raise UsageError(f"{path} holds an interrupted run: finish it with statewise fit --resume")
    raise UsageError(f"{path} holds no model; expected config.json in it or in its folder model")


def load_estimator(path: str) -> SystemIdentifier | LinearSystem | FIR | ARX:
    """Read the estimator in a folder, of whichever kind it is.

    Raises:
        UsageError: there is no model.
        DataError: a model that is damaged or of an unknown kind.
    """
    from statewise import estimators

    folder = find_model(path)
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} is not the config of a model") from error
    if kind not in KINDS:
        raise DataError(f"{folder} holds a {kind!r}; expected one of {', '.join(KINDS)}")
    return getattr(estimators, kind).load(folder)
