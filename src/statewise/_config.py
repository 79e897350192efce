"""Frozen dataclasses to plain dictionaries and back, through one registry; loading runs no code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

_REGISTRY: dict[str, type] = {}
_T = TypeVar("_T")


def register(cls: type[_T]) -> type[_T]:
    """Class decorator: let ``cls``, a dataclass, be saved under its name and read back.

    Args:
        cls: a dataclass with a name that no other registered class has.

    Returns:
        The class, unchanged.

    Raises:
        TypeError: ``cls`` is no dataclass, or the name is taken.
    """
    if not hasattr(cls, "__dataclass_fields__"):
        raise TypeError(f"{cls.__name__} must be a dataclass to be registered")
    taken = _REGISTRY.get(cls.__name__)
    if taken is not None and taken.__module__ != cls.__module__:
        raise TypeError(f"the name {cls.__name__} is taken by {taken.__module__}")
    _REGISTRY[cls.__name__] = cls
    return cls


def to_dict(value: Any) -> Any:
    """Turn a registered dataclass, with all that is nested in it, into JSON-ready values.

    Args:
        value: a registered dataclass, or a list, tuple, dict, string, number, bool or None.

    Returns:
        ``{"kind": ClassName, field: ...}`` for a dataclass, lists for sequences.

    Raises:
        TypeError: a value of another kind.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if name not in _REGISTRY:
            raise TypeError(f"{name} is not registered, so it could not be read back")
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": name, **fields}
    if isinstance(value, Mapping):
        if "kind" in value:
            raise TypeError('a mapping with the key "kind" would be read back as a dataclass')
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a value of type {type(value).__name__} cannot be saved in a config")


def from_dict(value: Any) -> Any:
    """Inverse of :func:`to_dict`; sequences come back as tuples.

    Args:
        value: what :func:`to_dict` gave, perhaps through JSON.

    Returns:
        The dataclass, or the plain value.

    Raises:
        ValueError: an unknown kind, or fields that the kind does not have.
    """
    if isinstance(value, list | tuple):
        return tuple(from_dict(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "kind" not in value:
        return {key: from_dict(item) for key, item in value.items()}
    kind = value["kind"]
    cls = _REGISTRY.get(kind)
    if cls is None:
        known = ", ".join(sorted(_REGISTRY)) or "none"
        raise ValueError(f"the config names the kind {kind!r}; known kinds are: {known}")
    given = {key: from_dict(item) for key, item in value.items() if key != "kind"}
    unknown = set(given) - {f.name for f in dataclasses.fields(cls)}
    if unknown:
        raise ValueError(
            f"the config of {kind} has the unknown field(s) {', '.join(sorted(unknown))}"
        )
    return cls(**given)
