"""Public checkpoints as folders: ``config.json`` and safetensors; loading runs no code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from statewise._errors import DataError
from statewise._files import atomic_folder, atomic_write, write_text
from statewise.models.hub import download, is_repository
from statewise.models.language_model import LanguageModel
from statewise.models.layouts import EMBEDDING, layout_of, read_layout, write_layout
from statewise.ops.memory import settle

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Decays and steps lose too much in a half type; their exponentials act over the whole sequence.
PRECISE = (".A_log", ".D", ".dt_bias", ".dt_proj.bias")

# What settings that no checkpoint has raise when they are read or built.
_UNUSABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def load_pretrained(
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Read a Mamba or Mamba-2 language model in one of its public layouts.

    Hybrids with attention and gated maps are read in the authors' layout. The folder holds
    ``config.json`` and ``model.safetensors``, or the shards that ``model.safetensors.index.json``
    lists. Tensors are named as by the authors' package (``backbone.embedding``) or by transformers
    (``backbone.embeddings``).

    Args:
        folder: the folder, or the name of a repository of a model hub, "organisation/name", whose
            ``config.json`` and safetensors are downloaded (needs the extra ``hub``).
        dtype: type of the parameters; None for float32. Decays, D and the biases of the steps
            stay in float32 where it is a half type.
        revision: a branch, tag or commit of the repository; None for the newest.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        DataError: the folder is incomplete or damaged, is of another model, or holds its weights
            as a pickle.
        ValueError: a revision of a folder.
        ImportError: a repository is named and huggingface-hub is not installed.
    """
    if is_repository(folder):
        folder = download(str(folder), revision)
    elif revision is not None:
        raise ValueError(f"a folder has no revisions; given {str(folder)!r}, revision={revision!r}")
    path = Path(folder)
    config = _read_json(path / "config.json")
    tensors = _read_tensors(path)
    try:
        embedding = f"backbone.{EMBEDDING[layout_of(config)]}.weight"
        settings = read_layout(config, tied="lm_head.weight" not in tensors)
        with torch.device("meta"):
            model = LanguageModel(settings)
    except _UNUSABLE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path / 'config.json'}: no model can be built: {reason}") from error
    if settings.tie_embeddings:
        _drop_tied_head(path, tensors, embedding)
    _assign(path, model, tensors, embedding, torch.float32 if dtype is None else dtype)
    return model.eval()


def save_pretrained(
    model: LanguageModel, folder: str | os.PathLike[str], *, layout: str = "transformers"
) -> None:
    """Write a Mamba or Mamba-2 language model in a public layout; the folder is replaced.

    Args:
        model: the model.
        folder: the folder to write.
        layout: "transformers" or "state-spaces". The first knows the padded size of the
            vocabulary alone; both leave out some settings of the initial draw.

    Raises:
        ValueError: an unknown layout, or a setting of the model that the layout cannot say.
    """
    config = write_layout(model.config, layout)
    config |= {"dtype": str(model.embedding.weight.dtype).removeprefix("torch.")}
    embedding = f"backbone.{EMBEDDING[layout]}.weight"
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        value = value.unsqueeze(1) if name.endswith("conv1d.weight") else value
        value = _swap_gate(name, value)
        tensors[_public(name, embedding)] = value.contiguous()
    with atomic_folder(folder) as temporary:
        write_text(temporary / "config.json", json.dumps(config, indent=2) + "\n")
        # save_file makes files that only their owner can read; atomic_write sets the usual mode.
        with atomic_write(temporary / WEIGHTS) as unfinished:
            save_file(tensors, unfinished, metadata={"format": "pt"})


def _public(name: str, embedding: str) -> str:
    """Public name of a parameter."""
    if name == "embedding.weight":
        return embedding
    if name == "lm_head.weight":
        return name
    parts = name.split(".")
    if parts[0] == "layers" and parts[2] == "layer":
        parts[2] = "mixer"
        parts[3] = {"enter": "in_proj", "leave": "out_proj"}.get(parts[3], parts[3])
    if parts[0] == "mlps":
        parts[0] = "layers"
        if parts[2] == "layer":
            parts[2:4] = ["mlp", {"enter": "fc1", "leave": "fc2"}[parts[3]]]
        else:
            parts[2] = "norm2"
    return ".".join(["backbone", *parts])


def _swap_gate(name: str, value: Tensor) -> Tensor:
    """The authors' gated map has the rows of the gate behind those of the value, ours in front."""
    gated = name.startswith("mlps.") and name.endswith(".enter.weight")
    return torch.cat(value.chunk(2)[::-1]) if gated else value


def _assign(
    path: Path,
    model: LanguageModel,
    tensors: Mapping[str, Tensor],
    embedding: str,
    dtype: torch.dtype,
) -> None:
    """Put tensors by public name in the place of the parameters of ``model``."""
    wanted = {_public(name, embedding): name for name in model.state_dict()}
    for label, names in (
        ("lack", set(wanted) - set(tensors)),
        ("hold the unknown", set(tensors) - set(wanted)),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise DataError(f"{path}: the weights {label} tensor {min(names)}{more}")
    found = {}
    for public, name in wanted.items():
        expected, value = model.get_parameter(name).shape, tensors[public]
        shape = tuple(value.shape)
        if name.endswith("conv1d.weight") and value.ndim == 3 and value.shape[1] == 1:
            value = value.squeeze(1)
        if value.shape != expected or not value.dtype.is_floating_point:
            raise DataError(
                f"{path}: the config asks for {public} of shape {tuple(expected)}; the weights "
                f"hold {shape} of {value.dtype}"
            )
        value = _swap_gate(name, value)
        precise = torch.promote_types(dtype, torch.float32)
        found[name] = value.to(precise if name.endswith(PRECISE) else dtype)
    model.load_state_dict(found, assign=True)
    settle(model.parameters())


def _drop_tied_head(path: Path, tensors: dict[str, Tensor], embedding: str) -> None:
    """Take a copy of the vectors out of the tensors, which both layouts may hold as the head."""
    head = tensors.pop("lm_head.weight", None)
    vectors = tensors.get(embedding)
    if head is not None and vectors is not None and not torch.equal(head, vectors):
        raise DataError(
            f"{path}: the config ties lm_head.weight to the vectors of the tokens, and the weights "
            f"hold different values for them"
        )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the single file or of the shards, by public name."""
    if (folder / INDEX).is_file():
        listed = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise DataError(f"{folder / INDEX}: expected a weight_map with the file of each tensor")
        tensors: dict[str, Tensor] = {}
        for file in sorted({str(name) for name in listed.values()}):
            if Path(file).name != file:
                raise DataError(f"{folder / INDEX}: expected names of files beside it; {file!r}")
            tensors |= _read_file(folder / file)
        missing = sorted(set(listed) - set(tensors))
        if missing:
            raise DataError(f"{folder}: the shards lack tensor {missing[0]}, which the index lists")
        return tensors
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    if any(folder.glob("*.bin")):
        raise DataError(
            f"{folder}: the weights are a pickle (.bin), which can run code when it is read; "
            f"expected {WEIGHTS}, as the safetensors library writes it"
        )
    raise DataError(f"{folder}: no weights here; expected {WEIGHTS} or {INDEX}")


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: the file with the weights is missing")
    try:
        return load_file(path)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: no safetensors file: {reason}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path.parent}: no checkpoint here; expected a folder with {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON; {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
