"""Models as folders: ``config.json`` and ``model.safetensors``; loading runs no code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from statewise._config import from_dict, to_dict
from statewise._errors import DataError
from statewise._files import atomic_folder, atomic_write, write_text
from statewise.models.deep_wiener import DeepWiener, DeepWienerConfig

FORMAT = 1
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}

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


def model_config(model: DeepWiener) -> dict[str, object]:
    """What ``config.json`` says of a model."""
    return {
        "model": "DeepWiener",
        "n_inputs": model.d_input,
        "n_outputs": model.d_output,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "parts": to_dict(model.config),
    }


def build_model(config: dict[str, object]) -> DeepWiener:
    """Make an untrained model from what :func:`model_config` gave.

    Raises:
        TypeError: a field of the wrong type.
        ValueError: a config that names another model, lacks a field or has a wrong value.
    """
    if config.get("model") != "DeepWiener":
        raise ValueError(
            f'a model "DeepWiener" was expected; the config says {config.get("model")!r}'
        )
    lacking = {"parts", "dtype", "n_inputs", "n_outputs"} - set(config)
    if lacking:
        raise ValueError(f"the config of a DeepWiener lacks {', '.join(sorted(lacking))}")
    parts = from_dict(config["parts"])
    if not isinstance(parts, DeepWienerConfig):
        raise ValueError("the config of a DeepWiener needs parts of kind DeepWienerConfig")
    dtype = DTYPES.get(str(config["dtype"]))
    if dtype is None:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}; given {config['dtype']!r}")
    n_inputs, n_outputs = config["n_inputs"], config["n_outputs"]
    if not isinstance(n_inputs, int) or not isinstance(n_outputs, int):
        raise TypeError(
            f"n_inputs and n_outputs are whole numbers; given {n_inputs!r} and {n_outputs!r}"
        )
    return DeepWiener(n_inputs, n_outputs, parts).to(dtype)


def write_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the parameters and buffers of ``model`` to a safetensors file."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    # save_file makes files that only their owner can read; atomic_write gives them the usual mode.
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)


def read_weights(model: torch.nn.Module, path: Path) -> None:
    """Read a safetensors file into ``model``.

    Raises:
        DataError: the file is missing, damaged or belongs to another model.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file with the weights is missing")
    try:
        tensors = load_file(path)
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


def save_model(model: DeepWiener, folder: str | os.PathLike[str]) -> None:
    """Write a model to a folder, which is replaced as a whole.

    Args:
        model: the model.
        folder: the folder to write.
    """
    with atomic_folder(folder) as temporary:
        text = json.dumps({"format": FORMAT, **model_config(model)}, indent=2)
        write_text(temporary / "config.json", text + "\n")
        write_weights(model, temporary / "model.safetensors")


def load_model(folder: str | os.PathLike[str]) -> DeepWiener:
    """Read a model that :func:`save_model` wrote.

    Args:
        folder: the folder.

    Returns:
        The model, on the CPU, in evaluation mode.

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
    read_weights(model, path / "model.safetensors")
    return model.eval()
