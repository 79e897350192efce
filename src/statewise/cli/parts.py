"""Parts of a model written on the command line as in Python, such as ``Polynomial(degree=5)``."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from statewise._config import from_dict
from statewise.nn.layer_spec import LayerSpec


def part_kinds(types: Sequence[type]) -> dict[str, type]:
    """The parts that may stand where one of ``types`` is expected, by name.

    Args:
        types: dataclasses, of which those with subclasses are families.

    Returns:
        The classes without subclasses of their own, in alphabetical order.
    """
    found: dict[str, type] = {}
    for one in types:
        below = one.__subclasses__()
        found |= part_kinds(below) if below else {one.__name__: one}
    return dict(sorted(found.items()))


def read_part(text: str, types: Sequence[type], *, optional: bool = False) -> Any:
    """Make a part from its text; nothing in the text is run.

    ``GLU`` and ``GLU()`` are the same; settings are given by name, and may be parts again:
    ``DiscreteDiagonal(law=Ring(r_max=0.99), gain=trained)``.

    Args:
        text: what the user wrote.
        types: classes of which the part must be one.
        optional: whether ``None`` is a part.

    Returns:
        The part, or None.

    Raises:
        ValueError: text that is no part; the message says what was expected.
    """
    if LayerSpec in types:
        return _read_layer(text, optional=optional)
    kinds = part_kinds(types)
    expected = ", ".join([*kinds, *(["None"] if optional else [])])
    tree = _parse(text)
    if tree is None:
        raise ValueError(f"{text!r} is no part; write one of {expected}, as in Python")
    if optional and isinstance(tree, ast.Constant) and tree.value is None:
        return None
    name = _name(tree)
    if name not in kinds:
        near = difflib.get_close_matches(name or "", kinds, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{text!r} is none of {expected}{hint}")
    try:
        return _value(tree)
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from error


def show_part(part: Any) -> str:
    """Write a part as :func:`read_part` reads it, with the settings that are not the default."""
    if isinstance(part, LayerSpec):
        options = ", ".join(f"{name}={show_part(value)}" for name, value in part.options.items())
        return f"{part.layer}({options})" if options else part.layer
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return repr(part)
    shown = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            shown.append(f"{field.name}={show_part(value)}")
    return f"{type(part).__name__}({', '.join(shown)})" if shown else type(part).__name__


def _parse(text: str) -> ast.expr | None:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _read_layer(text: str, *, optional: bool) -> LayerSpec | None:
    tree = _parse(text)
    if optional and isinstance(tree, ast.Constant) and tree.value is None:
        return None
    name = None if tree is None else _name(tree)
    if tree is None or name is None:
        raise ValueError(f"{text!r} is no layer; write one as in Python, such as Mamba(d_state=8)")
    spec = LayerSpec(name, _settings(name, tree) if isinstance(tree, ast.Call) else {})
    spec.check()
    return spec


def _name(tree: ast.expr) -> str | None:
    called = tree.func if isinstance(tree, ast.Call) else tree
    return called.id if isinstance(called, ast.Name) else None


def _value(tree: ast.expr) -> Any:
    if isinstance(tree, ast.Constant):
        return tree.value
    if isinstance(tree, ast.Tuple | ast.List):
        return tuple(_value(item) for item in tree.elts)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        number = _value(tree.operand)
        if isinstance(number, int | float):
            return -number
    name = _name(tree)
    if name is None:
        raise ValueError(f"{ast.unparse(tree)!r} is neither a number, a word nor a part")
    if isinstance(tree, ast.Name):
        # Words need no quotes, which a shell would take away: gain=trained.
        return _build(name, {}) if name[:1].isupper() else name
    assert isinstance(tree, ast.Call)
    return _build(name, _settings(name, tree))


def _settings(name: str, call: ast.Call) -> dict[str, Any]:
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"settings of {name} are given by name, as in {name}(setting=value)")
    return {str(item.arg): _value(item.value) for item in call.keywords}


def _build(name: str, settings: dict[str, Any]) -> Any:
    try:
        made = from_dict({"kind": name})
    except ValueError as error:
        # No setting of that name: perhaps a layer inside another one.
        spec = LayerSpec(name, settings)
        try:
            spec.check()
        except ValueError:
            raise error from None
        return spec
    unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(made)})
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(made)) or "none"
        raise ValueError(f"{name} has no setting {unknown[0]!r}; its settings are: {known}")
    return dataclasses.replace(made, **settings)
