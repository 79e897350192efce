"""Hybrids in the authors' layout: attention at some places, a gated map behind every layer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from statewise.models.language_config import LanguageModelConfig
from statewise.nn.attention import Attention
from statewise.nn.feed_forward import FeedForward
from statewise.nn.layer_spec import LayerSpec

MLP_MULTIPLE = 128
"""The hidden units behind a layer are as many as asked for, up to the next multiple of this."""

# Public name and name of the option here, for options with the same meaning.
_ATTENTION = {
    "num_heads": "n_heads",
    "num_heads_kv": "n_heads_kv",
    "head_dim": "d_head",
    "d_conv": "d_conv",
}
_FIXED = {"causal": True, "mlp_dim": 0, "softmax_scale": None, "rotary_emb_interleaved": False}
_MLP = {"activation": "silu", "gated": True, "bias": False}


def read_hybrid(config: Mapping[str, Any]) -> dict[str, Any]:
    """``attention``, ``attention_at`` and ``mlp`` of a model from a public ``config.json``.

    Raises:
        ValueError: a setting that the layers here do not have.
        TypeError: a setting of the wrong type.
    """
    found: dict[str, Any] = {}
    places = tuple(config.get("attn_layer_idx") or ())
    if places:
        found = {"attention": _read_attention(config.get("attn_cfg") or {}), "attention_at": places}
    hidden = config.get("d_intermediate") or 0
    if hidden:
        hidden = -(-hidden // MLP_MULTIPLE) * MLP_MULTIPLE
        found["mlp"] = FeedForward.spec(expand=hidden / config["d_model"], **_MLP)
    return found


def write_hybrid(config: LanguageModelConfig) -> dict[str, Any]:
    """What a public ``config.json`` says of them.

    Raises:
        ValueError: a layer that the layout cannot say.
    """
    hidden, settings = 0, {}
    if config.mlp is not None:
        options = _options(config.mlp, FeedForward)
        hidden = round(options.pop("expand") * config.d_model)
        if options != _MLP or hidden % MLP_MULTIPLE:
            raise ValueError(
                f"the layout says an mlp FeedForward.spec(activation='silu', gated=True, "
                f"bias=False) with a multiple of {MLP_MULTIPLE} hidden units; given {config.mlp!r}"
            )
    if config.attention is not None:
        options = _options(config.attention, Attention)
        if options["window"] is not None:
            raise ValueError(
                f"the layout says attention with window = None; given {options['window']}"
            )
        settings = {"causal": True, **{k: options[v] for k, v in _ATTENTION.items()}}
        settings = {name: value for name, value in settings.items() if value is not None}
        for name in ("qkv_proj_bias", "out_proj_bias"):
            settings[name] = options["bias"]
        if options["base"]:
            width = options["d_head"] or config.d_model // options["n_heads"]
            settings["rotary_emb_dim"] = options["rotary"] or width
            settings["rotary_emb_base"] = options["base"]
    return {
        "d_intermediate": hidden,
        "attn_layer_idx": list(config.attention_at),
        "attn_cfg": settings,
    }


def _read_attention(given: Mapping[str, Any]) -> LayerSpec:
    known = {*_ATTENTION, *_FIXED, "qkv_proj_bias", "out_proj_bias"}
    known |= {"rotary_emb_dim", "rotary_emb_base"}
    if set(given) - known:
        raise ValueError(f"attn_cfg has no setting {', '.join(sorted(set(given) - known))}")
    if "num_heads" not in given:
        raise ValueError("attn_cfg needs num_heads, because attn_layer_idx names places")
    # The authors' layer is not causal unless told so; a language model must be.
    for name, expected in _FIXED.items():
        value = given.get(name, False if name == "causal" else expected)
        if value != expected:
            raise ValueError(f"attn_cfg needs {name} = {expected!r}; given {value!r}")
    bias = given.get("qkv_proj_bias", True)
    if given.get("out_proj_bias", True) != bias:
        raise ValueError("attn_cfg needs qkv_proj_bias and out_proj_bias to be equal")
    options = {ours: given[theirs] for theirs, ours in _ATTENTION.items() if theirs in given}
    turned = given.get("rotary_emb_dim", 0)
    if turned:
        options |= {"rotary": turned, "base": float(given.get("rotary_emb_base", 10_000.0))}
    else:
        options["base"] = 0.0
    return Attention.spec(window=None, bias=bias, **options)


def _options(spec: LayerSpec, kind: type) -> dict[str, Any]:
    """All options of a layer of that kind, with the values of those that are left out."""
    if spec.layer != kind.__name__:
        raise ValueError(f"the layout says {kind.__name__} there; given {spec.layer}")
    parameters = inspect.signature(kind).parameters
    usual = {k: v.default for k, v in parameters.items() if k not in ("d_model", "seed")}
    return {**usual, **spec.options}
