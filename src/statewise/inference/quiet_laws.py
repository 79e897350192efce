"""Torch distributions without the checks of their arguments, in one thread and for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributions import Distribution

_lock = threading.Lock()
_here = threading.local()
_users = 0
_switch: _PerThread | None = None
_NAME = "_validate_args"


class _PerThread:
    """A class attribute: False in threads that asked for no checks, elsewhere what it was.

    It has no ``__set__``, so a distribution that was told to check or not keeps its own answer.
    """

    def __init__(self, before: Any) -> None:
        self.before = before

    def __get__(self, instance: object, owner: type) -> Any:
        return False if getattr(_here, "depth", 0) else self.before


@contextmanager
def unchecked() -> Iterator[None]:
    """Distributions made in this thread do not check their arguments, unless told to.

    Checks cost more than small distributions themselves, and make a GPU wait. Other threads see
    the setting that they had; a setting changed meanwhile by ``set_default_validate_args`` stays.
    """
    global _users, _switch
    with _lock:
        if not _users:
            _switch = _PerThread(Distribution.__dict__[_NAME])
            setattr(Distribution, _NAME, _switch)
        _users += 1
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1
        with _lock:
            _users -= 1
            if not _users and _switch is not None:
                if Distribution.__dict__[_NAME] is _switch:
                    setattr(Distribution, _NAME, _switch.before)
                _switch = None
