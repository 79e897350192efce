"""The public layouts of Mamba and Mamba-2 checkpoints: what their ``config.json`` says.

Two are in use: that of the authors' package, here "state-spaces" (``d_model``, ``n_layer``,
``ssm_cfg``), and that of the transformers library, here "transformers" (``model_type``,
``hidden_size``, ``num_hidden_layers``). Neither keeps all settings of the initial draw.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from statewise.models.hybrids import read_hybrid, write_hybrid
from statewise.models.language_config import LanguageModelConfig
from statewise.nn.layer_spec import LayerSpec
from statewise.nn.mamba import Mamba
from statewise.nn.mamba2 import Mamba2, usual_headdim
from statewise.nn.specs import Selective

LAYOUTS = ("state-spaces", "transformers")

EMBEDDING = {"state-spaces": "embedding", "transformers": "embeddings"}
"""What each layout calls the vectors of the tokens."""

_KINDS: dict[str, type[Mamba] | type[Mamba2]] = {"Mamba": Mamba, "Mamba2": Mamba2}
_EPS = 1e-5

# Public name and name of the option here, for options with the same meaning.
_STATE_SPACES = {
    "Mamba": {
        "d_state": "d_state",
        "d_conv": "d_conv",
        "expand": "expand",
        "dt_rank": "dt_rank",
        "dt_min": "dt_min",
        "dt_max": "dt_max",
        "dt_init": "dt_start",
        "dt_scale": "dt_scale",
        "dt_init_floor": "dt_floor",
        "conv_bias": "conv_bias",
        "bias": "bias",
    },
    "Mamba2": {
        "d_state": "d_state",
        "d_conv": "d_conv",
        "conv_init": "conv_start",
        "expand": "expand",
        "headdim": "headdim",
        "d_ssm": "d_ssm",
        "ngroups": "n_groups",
        "D_has_hdim": "D_per_channel",
        "rmsnorm": "rmsnorm",
        "norm_before_gate": "norm_before_gate",
        "dt_min": "dt_min",
        "dt_max": "dt_max",
        "dt_init_floor": "dt_floor",
        "learnable_init_states": "learnable_init_states",
        "bias": "bias",
        "conv_bias": "conv_bias",
    },
}
_TRANSFORMERS = {
    "Mamba": {
        "state_size": "d_state",
        "conv_kernel": "d_conv",
        "expand": "expand",
        "time_step_rank": "dt_rank",
        "time_step_min": "dt_min",
        "time_step_max": "dt_max",
        "time_step_floor": "dt_floor",
        "time_step_scale": "dt_scale",
        "time_step_init_scheme": "dt_start",
        "use_conv_bias": "conv_bias",
        "use_bias": "bias",
    },
    "Mamba2": {
        "state_size": "d_state",
        "conv_kernel": "d_conv",
        "expand": "expand",
        "head_dim": "headdim",
        "n_groups": "n_groups",
        "time_step_min": "dt_min",
        "time_step_max": "dt_max",
        "time_step_floor": "dt_floor",
        "use_conv_bias": "conv_bias",
        "use_bias": "bias",
    },
}
# The library's own values of settings that a config leaves out, where they differ from ours.
_TRANSFORMERS_DEFAULTS = {"Mamba": {}, "Mamba2": {"n_groups": 8}}

# Settings that change how fast the authors' layers run, not what they compute.
_SPEED = {"use_fast_path", "use_mem_eff_path", "chunk_size", "layer_idx", "device", "dtype"}


def layout_of(config: Mapping[str, Any]) -> str:
    """Which layout a ``config.json`` has.

    Raises:
        ValueError: neither.
    """
    if "model_type" in config:
        if config["model_type"] in ("mamba", "mamba2"):
            return "transformers"
        raise ValueError(f'model_type is "mamba" or "mamba2"; given {config["model_type"]!r}')
    if {"d_model", "n_layer", "vocab_size"} <= set(config):
        return "state-spaces"
    raise ValueError(
        "a Mamba config holds model_type, or d_model, n_layer and vocab_size; this one holds "
        f"{', '.join(sorted(config)) or 'nothing'}"
    )


def read_layout(config: Mapping[str, Any], tied: bool) -> LanguageModelConfig:
    """Size and parts from a public ``config.json``.

    Args:
        config: its content.
        tied: whether logits are read out with the vectors of the tokens when it does not say so.

    Raises:
        ValueError: no such layout, or a setting that :class:`LanguageModel` does not have.
        TypeError: a setting of the wrong type.
    """
    read = _read_transformers if layout_of(config) == "transformers" else _read_state_spaces
    return read(config, tied)


def write_layout(config: LanguageModelConfig, layout: str) -> dict[str, Any]:
    """What a public ``config.json`` says of a model.

    Raises:
        ValueError: an unknown layout, or a setting that the layout cannot say.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}; given {layout!r}")
    kind = config.layer.layer
    if kind not in _KINDS:
        raise ValueError(f"the public layouts hold Mamba and Mamba2; given {kind}")
    write = _write_transformers if layout == "transformers" else _write_state_spaces
    options = {**_defaults(kind), **config.layer.options}
    if kind == "Mamba2" and options["headdim"] is None:
        inner = int(options["expand"] * config.d_model)
        width = inner if options["d_ssm"] is None else options["d_ssm"]
        options["headdim"] = usual_headdim(width, options["n_groups"])
    return write(config, kind, options)


def _defaults(kind: str) -> dict[str, Any]:
    """Options of a layer with the values that they have when left out."""
    parameters = inspect.signature(_KINDS[kind]).parameters
    without = {"d_model", "seed"}
    return {name: given.default for name, given in parameters.items() if name not in without}


def _expect(config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse settings that are given with other values than the model has."""
    for name, value in expected.items():
        if name in config and config[name] != value:
            raise ValueError(f"LanguageModel needs {name} = {value!r}; given {config[name]!r}")


def _renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {ours: given[theirs] for theirs, ours in names.items() if theirs in given}
    if found.get("dt_rank") == "auto":
        found["dt_rank"] = None
    return found


def _number(value: Any) -> Any:
    """A number that JSON cannot hold is written by name."""
    return float(value["__float__"]) if isinstance(value, dict) else value


def _limits(pair: Any) -> dict[str, float | None]:
    low, high = (_number(value) for value in pair)
    return {"dt_lowest": low, "dt_highest": None if high == math.inf else high}


# --- the authors' layout


def _read_state_spaces(config: Mapping[str, Any], tied: bool) -> LanguageModelConfig:
    _expect(config, {"rms_norm": True})
    given = dict(config.get("ssm_cfg") or {})
    name = given.pop("layer", "Mamba1")
    kind = {"Mamba1": "Mamba", "Mamba2": "Mamba2"}.get(name)
    if kind is None:
        raise ValueError(f'the layer of ssm_cfg is "Mamba1" or "Mamba2"; given {name!r}')
    names, special = _STATE_SPACES[kind], {"A_init_range", "dt_limit"} if kind == "Mamba2" else {}
    unknown = set(given) - set(names) - set(special) - _SPEED
    if unknown:
        raise ValueError(f"{kind} has no setting {', '.join(sorted(unknown))} of ssm_cfg")
    options = _renamed(given, names)
    if "A_init_range" in given:
        options["a_min"], options["a_max"] = given["A_init_range"]
    if "dt_limit" in given:
        options.update(_limits(given["dt_limit"]))
    return LanguageModelConfig(
        vocab_size=config["vocab_size"],
        d_model=config["d_model"],
        n_layer=config["n_layer"],
        layer=LayerSpec(kind, options),
        **read_hybrid(config),
        pad_vocab_size_multiple=config.get("pad_vocab_size_multiple", 8),
        tie_embeddings=config.get("tie_embeddings", tied),
        residual_in_fp32=config.get("residual_in_fp32", True),
    )


def _write_state_spaces(
    config: LanguageModelConfig, kind: str, options: dict[str, Any]
) -> dict[str, Any]:
    _say(options, kind, {"rule": "euler", "selective": (None, Selective()), "norm_eps": _EPS})
    usual = _defaults(kind)
    given = {
        theirs: options[ours]
        for theirs, ours in _STATE_SPACES[kind].items()
        if options[ours] != usual[ours]
    }
    if kind == "Mamba2":
        if (options["a_min"], options["a_max"]) != (usual["a_min"], usual["a_max"]):
            given["A_init_range"] = [options["a_min"], options["a_max"]]
        if options["dt_lowest"] != 0.0 or options["dt_highest"] is not None:
            high = options["dt_highest"]
            given["dt_limit"] = [options["dt_lowest"], math.inf if high is None else high]
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {"layer": "Mamba1" if kind == "Mamba" else kind, **given},
        **write_hybrid(config),
        "rms_norm": True,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": config.pad_vocab_size_multiple,
        "tie_embeddings": config.tie_embeddings,
    }


# --- the layout of transformers


def _read_transformers(config: Mapping[str, Any], tied: bool) -> LanguageModelConfig:
    kind = "Mamba" if config["model_type"] == "mamba" else "Mamba2"
    _expect(config, {"layer_norm_epsilon": _EPS, "hidden_act": "silu"})
    options = _renamed({**_TRANSFORMERS_DEFAULTS[kind], **config}, _TRANSFORMERS[kind])
    width, inner = config["hidden_size"], int(config.get("expand", 2) * config["hidden_size"])
    if kind == "Mamba":
        _expect(config, {"intermediate_size": inner})
    else:
        heads = config.get("num_heads", 128)
        if heads * config.get("head_dim", 64) != inner:
            raise ValueError(
                f"num_heads * head_dim is expand * hidden_size = {inner}; given {heads} heads of "
                f"{config.get('head_dim', 64)}"
            )
        if config.get("time_step_limit") is not None:
            options.update(_limits(config["time_step_limit"]))
    return LanguageModelConfig(
        vocab_size=config["vocab_size"],
        d_model=width,
        n_layer=config["num_hidden_layers"],
        layer=LayerSpec(kind, options),
        pad_vocab_size_multiple=1,
        tie_embeddings=config.get("tie_word_embeddings", tied),
        residual_in_fp32=config.get("residual_in_fp32", True),
    )


def _write_transformers(
    config: LanguageModelConfig, kind: str, options: dict[str, Any]
) -> dict[str, Any]:
    if config.attention is not None or config.mlp is not None:
        raise ValueError("the layout cannot say the attention and mlp of a hybrid")
    inner = int(options["expand"] * config.d_model)
    fixed: dict[str, Any] = {"rule": "euler", "selective": (None, Selective()), "norm_eps": _EPS}
    fixed |= {"rmsnorm": True, "norm_before_gate": False, "D_per_channel": False}
    fixed |= {"learnable_init_states": False, "d_ssm": (None, inner)}
    _say(options, kind, fixed)
    given = {theirs: options[ours] for theirs, ours in _TRANSFORMERS[kind].items()}
    if kind == "Mamba":
        if given["time_step_rank"] is None:
            given["time_step_rank"] = math.ceil(config.d_model / 16)
        given["intermediate_size"] = inner
    else:
        given["num_heads"] = inner // options["headdim"]
        if options["dt_lowest"] != 0.0 or options["dt_highest"] is not None:
            high = options["dt_highest"]
            top = {"__float__": "Infinity"} if high is None else high
            given["time_step_limit"] = [options["dt_lowest"], top]
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind.lower(),
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "layer_norm_epsilon": _EPS,
        "hidden_act": "silu",
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        **given,
    }


def _say(options: Mapping[str, Any], kind: str, fixed: Mapping[str, Any]) -> None:
    """Refuse options of the layer with other values than the layout implies."""
    for name, expected in fixed.items():
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if name in options and options[name] not in allowed:
            raise ValueError(f"the layout cannot say {name} = {options[name]!r} of {kind}")
