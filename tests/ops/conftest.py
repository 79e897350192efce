"""Triton's interpreter without the work that it repeats, where kernels run on no GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any


def _spare_the_interpreter() -> None:
    """Let a kernel look up what it needs once, not in each of its functions and numbers.

    At every call of a function, the interpreter searches ``triton.language`` for the names to
    replace, although they stay replaced until the kernel ends; for every number it makes the table
    of numpy's types anew. Together that takes up to three quarters of a kernel's time.
    """
    from triton import language
    from triton.runtime import interpreter

    replace, numpy_type = interpreter._patch_lang, interpreter._get_np_dtype
    modules: set[int] = set()
    types: dict[tuple[type, str], Any] = {}

    def replace_once(function: Callable[..., Any]) -> Any:
        if language.core.is_builtin(language.load):  # nothing is replaced: a kernel begins
            modules.clear()
        module = id(function.__globals__)
        if module in modules:
            return interpreter._LangPatchScope()
        modules.add(module)
        return replace(function)

    def remembered_type(kind: Any) -> Any:
        key = (type(kind), kind.name)
        if key not in types:
            types[key] = numpy_type(kind)
        return types[key]

    interpreter._patch_lang = replace_once
    interpreter._get_np_dtype = remembered_type


# The names are private: a Triton that has others is left as it is, and is only slower.
if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    with contextlib.suppress(AttributeError):
        _spare_the_interpreter()
