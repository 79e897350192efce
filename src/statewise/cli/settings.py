"""The settings of a recipe as options: the dataclasses of Python make the command line."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from statewise._config import to_dict
from statewise.cli.console import UsageError
from statewise.cli.parts import part_kinds, read_part, show_part
from statewise.estimators.recipes import Recipe
from statewise.nn.layer_spec import LayerSpec

T = TypeVar("T")

#: Nested settings of a recipe that are options, with the summary of their group.
GROUPS = {
    "model": "The network. Parts are written as in Python, such as 'Polynomial(degree=5)'.",
    "training": "The training.",
}

#: Parts of a recipe that are options of their own.
PARTS = ("transform", "start")


def recipe_options(base: type[T], recipe: Recipe, *, hidden: bool) -> type[T]:
    """Add the settings of a recipe to the options of a command.

    Args:
        base: dataclass with the other options of the command.
        recipe: where the default values come from.
        hidden: leave the settings out of the help (and of the command line).

    Returns:
        A subclass of ``base`` with the fields ``model``, ``training``, ``transform`` and ``start``.
    """
    added: list[Any] = []
    for name, summary in GROUPS.items():
        default = getattr(recipe, name)
        kind = _options_like(default, name, summary)
        hint: Any = Annotated[kind, tyro.conf.FlagConversionOff]
        if hidden:
            hint = Annotated[hint, tyro.conf.Suppress]
        added.append((name, hint, dataclasses.field(default=kind())))
    docs = attribute_docs(Recipe)
    hints = get_type_hints(Recipe)
    for name in PARTS:
        field = _option(name, hints[name], getattr(recipe, name), docs[name])
        if hidden:
            field = (field[0], Annotated[field[1], tyro.conf.Suppress], field[2])
        added.append(field)
    return dataclasses.make_dataclass(base.__name__, added, bases=(base,), frozen=True)


def recipe_from(options: Any, recipe: Recipe, valid_fraction: float | None) -> Recipe:
    """The recipe that the options ask for.

    Args:
        options: what a class from :func:`recipe_options` was parsed to.
        recipe: the recipe that gave the defaults.
        valid_fraction: replaces that of the recipe unless None.

    Raises:
        UsageError: settings that exclude each other or are out of range.
    """
    changes: dict[str, Any] = {name: getattr(options, name) for name in PARTS}
    for name in GROUPS:
        given = getattr(options, name)
        fields = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
        try:
            changes[name] = dataclasses.replace(getattr(recipe, name), **fields)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--{name}: {error}") from error
    if valid_fraction is not None:
        changes["valid_fraction"] = valid_fraction
    return dataclasses.replace(recipe, **changes)


def flat_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe by the name of their option, JSON-ready."""
    found: dict[str, Any] = {}
    for name, value in to_dict(recipe).items():
        if name in GROUPS:
            found |= {f"{name}.{key}": item for key, item in value.items() if key != "kind"}
        elif name != "kind":
            found[name] = value
    return found


def attribute_docs(kind: type) -> dict[str, str]:
    """What a class docstring says of each attribute, without markup."""
    text = inspect.cleandoc(kind.__doc__ or "")
    section = re.search(r"^(?:Attributes|Args):\n((?:(?: {4}.*)?\n?)*)", text, re.MULTILINE)
    if section is None:
        return {}
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1].rstrip(), re.MULTILINE)
    return {name: _unmarked(" ".join(words.split())) for name, words in found}


def _unmarked(text: str) -> str:
    text = re.sub(r"; see :\w+:`[^`]*`", "", text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    # A layer is written without the word that makes it data in Python.
    return text.replace("``", "").replace(".spec(", "(")


def _options_like(default: Any, group: str, summary: str) -> type:
    """A dataclass with the fields of a config, in which parts are read from text."""
    kind = type(default)
    docs, hints = attribute_docs(kind), get_type_hints(kind)
    fields = [
        _option(f"{group}.{f.name}", hints[f.name], getattr(default, f.name), docs.get(f.name, ""))
        for f in dataclasses.fields(default)
    ]
    made = dataclasses.make_dataclass(
        f"{kind.__name__}Options",
        [(name.partition(".")[2], hint, field) for name, hint, field in fields],
        frozen=True,
    )
    made.__doc__ = summary
    return made


def _option(name: str, hint: Any, default: Any, text: str) -> tuple[str, Any, Any]:
    """Name, annotation and field of an option; parts get a reader of their own."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    families = [one for one in members if isinstance(one, type) and dataclasses.is_dataclass(one)]
    field = dataclasses.field(default=default)
    if not families:
        return name, Annotated[hint, tyro.conf.arg(help=text)], field
    optional = type(None) in members
    accepted = tuple(families) + ((type(None),) if optional else ())
    kinds = {} if LayerSpec in families else part_kinds(families)
    choices = [*kinds, *(["None"] if optional else [])]
    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PART",
        instance_from_str=_reader(families, optional),
        is_instance=lambda value: isinstance(value, accepted),
        str_from_instance=lambda value: [show_part(value)],
    )
    if LayerSpec not in families and not all(re.search(rf"\b{one}\b", text) for one in choices):
        text = f"{text.rstrip('.')}: {', '.join(choices)}."
    return name, Annotated[hint, spec, tyro.conf.arg(help=text)], field


def _reader(families: list[type], optional: bool) -> Callable[[list[str]], Any]:
    return lambda words: read_part(words[0], families, optional=optional)
