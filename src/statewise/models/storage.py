"""Models as folders: ``config.json`` and ``model.safetensors``; loading runs no code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from statewise._config import from_dict, to_dict
from statewise._errors import DataError
from statewise._files import atomic_folder, atomic_write, write_text
from statewise.models.config import DeepWienerConfig
from statewise.models.deep_wiener import DeepWiener
from statewise.models.language_config import LanguageModelConfig
from statewise.models.language_model import LanguageModel
from statewise.models.sequence_config import SequenceModelConfig
from statewise.models.sequence_model import SequenceModel

FORMAT = 2
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}

_KINDS: dict[str, tuple[Any, type]] = {
    "DeepWiener": (DeepWiener, DeepWienerConfig),
    "LanguageModel": (LanguageModel, LanguageModelConfig),
    "SequenceModel": (SequenceModel, SequenceModelConfig),
}

Model = DeepWiener | LanguageModel | SequenceModel

# What the constructors raise on values that no saved model has.
_UNUSABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def model_config(model: Model) -> dict[str, object]:
    """What ``config.json`` says of a model."""
    sizes: dict[str, object] = {}
    if not isinstance(model, LanguageModel):
        sizes = {"n_inputs": model.d_input, "n_outputs": model.d_output}
    return {
        "model": type(model).__name__,
        **sizes,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "parts": to_dict(model.config),
    }


def build_model(config: dict[str, object]) -> Any:
    """Make an untrained model from what :func:`model_config` gave.

    Raises:
        TypeError: a field of the wrong type.
        ValueError: a config that names another model, lacks a field or has a wrong value.
    """
    name = config.get("model")
    if not isinstance(name, str) or name not in _KINDS:
        known = " or ".join(f'"{kind}"' for kind in _KINDS)
        raise ValueError(f"a model {known} was expected; the config says {name!r}")
    kind, settings = _KINDS[name]
    sizes = () if name == "LanguageModel" else ("n_inputs", "n_outputs")
    lacking = {"parts", "dtype", *sizes} - set(config)
    if lacking:
        raise ValueError(f"the config of a {name} lacks {', '.join(sorted(lacking))}")
    parts = from_dict(config["parts"])
    if not isinstance(parts, settings):
        raise ValueError(f"the config of a {name} needs parts of kind {settings.__name__}")
    dtype = DTYPES.get(str(config["dtype"]))
    if dtype is None:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}; given {config['dtype']!r}")
    given = [config[name] for name in sizes]
    if not all(isinstance(size, int) for size in given):
        raise TypeError(
            f"n_inputs and n_outputs are whole numbers; given {' and '.join(map(repr, given))}"
        )
    return kind(*given, parts).to(dtype)


def write_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the parameters and buffers of ``model`` to a safetensors file."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    # save_file makes files that only their owner can read; atomic_write gives them the usual mode.
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)


def read_weights(model: torch.nn.Module, path: Path, *, own_types: bool = False) -> None:
    """Read a safetensors file into ``model``.

    Args:
        model: the model.
        path: the file.
        own_types: give the parameters the types of the file instead of keeping theirs.

    Raises:
        DataError: the file is missing, damaged or belongs to another model.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file with the weights is missing")
    try:
        tensors = load_file(path)
        if own_types:
            for name, parameter in model.named_parameters():
                if name in tensors and tensors[name].is_floating_point():
                    parameter.data = parameter.data.to(tensors[name].dtype)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: the weights do not fit the model: {reason}") from error


def read_config(folder: Path) -> dict[str, object]:
    """Read ``config.json`` of a model folder.

    Raises:
        DataError: the folder or file is missing, no JSON, or of a newer format.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{folder}: no model here; expected a folder with config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON; {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(config).__name__}")
    if config.get("format") != FORMAT:
        raise DataError(
            f"{path}: expected format {FORMAT}, found {config.get('format')!r}; "
            f"was it written by another version?"
        )
    return config


def save_model(model: Model, folder: str | os.PathLike[str]) -> None:
    """Write a model to a folder, which is replaced as a whole.

    A language model of any layer can be written; other libraries read what
    :func:`~statewise.models.save_pretrained` writes.

    Args:
        model: the model.
        folder: the folder to write.
    """
    with atomic_folder(folder) as temporary:
        text = json.dumps({"format": FORMAT, **model_config(model)}, indent=2)
        write_text(temporary / "config.json", text + "\n")
        write_weights(model, temporary / "model.safetensors")


def load_model(folder: str | os.PathLike[str]) -> Any:
    """Read a model that :func:`save_model` wrote.

    Args:
        folder: the folder.

    Returns:
        The model, of the class it was saved from, on the CPU, in evaluation mode.

    Raises:
        DataError: the folder is incomplete or damaged.
    """
    path = Path(folder)
    config = read_config(path)
    try:
        model = build_model(config)
    except _UNUSABLE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path / 'config.json'}: no model can be built: {reason}") from error
    # A language model in a half type keeps its decays in float32.
    own_types = isinstance(model, LanguageModel)
    read_weights(model, path / "model.safetensors", own_types=own_types)
    return model.eval()
