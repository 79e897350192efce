"""Checkpoints of a model hub: what a repository holds as a folder, and a folder as a repository.

Needs the package huggingface-hub (the extra ``hub``), which also knows where the hub is, who asks
and where downloads are kept.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from statewise._errors import DataError, require

if TYPE_CHECKING:
    from statewise.models.language_model import LanguageModel

FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
"""What is downloaded, and nothing else: settings and weights that run no code."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_repository(name: object) -> bool:
    """Whether this names a repository of a hub, "organisation/name", and no folder that exists."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not Path(name).exists()


def download(repository: str, revision: str | None = None) -> Path:
    """The folder with settings and weights of a repository, downloaded when not kept already.

    Args:
        repository: "organisation/name".
        revision: a branch, tag or commit; None for the newest.

    Raises:
        DataError: the repository cannot be reached, or has no weights as safetensors.
        ImportError: huggingface-hub is not installed; the message names the extra.
    """
    hub = require("huggingface_hub", extra="hub")
    try:
        found = hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{repository}: neither a folder here nor a repository that can be read: {reason}"
        ) from error
    folder = Path(found)
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{repository}: the repository has no weights as safetensors; expected "
            f"model.safetensors, beside which pickles (.bin) are not read, as they can run code"
        )
    return folder


def push_to_hub(
    model: LanguageModel,
    repository: str,
    *,
    layout: str = "transformers",
    private: bool | None = None,
) -> str:
    """Write a language model to a repository, which is made when missing.

    Weights that the repository had are replaced; its other files stay.

    Args:
        model: the model.
        repository: "organisation/name".
        layout: "transformers" or "state-spaces"; see :func:`save_pretrained`.
        private: whether a new repository is private; None for what the account says.

    Returns:
        The address of the repository.

    Raises:
        ValueError: no such name, an unknown layout, or a setting that the layout cannot say.
        ImportError: huggingface-hub is not installed; the message names the extra.
    """
    from statewise.models.pretrained import save_pretrained

    if not _NAME.fullmatch(repository):
        raise ValueError(f'a repository is named "organisation/name"; given {repository!r}')
    hub = require("huggingface_hub", extra="hub")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_pretrained(model, folder, layout=layout)
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Write a language model of {model.n_parameters:,} parameters",
            delete_patterns=list(FILES[1:]),
        )
    return str(address)
