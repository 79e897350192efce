"""The one way CPU kernels are compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

_log = logging.getLogger("statewise")
_told = False


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel with numba: on first call, without the GIL, kept on disk.

    Numba keeps compiled code beside the package, or in the user's cache folder when the package
    is read-only (``NUMBA_CACHE_DIR`` chooses another). Where no folder can be written the kernel
    is compiled anew in each process, and the log says so once.

    Multiply-adds may be fused; nothing else of IEEE arithmetic is relaxed, so NaN and infinity
    travel as in the reference.

    Args:
        function: the kernel, in the part of Python that numba compiles.

    Returns:
        The compiled function; it is callable as ``function`` is.
    """
    global _told
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        if not _told:
            _told = True
            _log.info(
                "compiled CPU kernels are not kept between runs, because no cache folder can be "
                "written; set NUMBA_CACHE_DIR to one that can"
            )
        return njit(cache=False, **options)(function)
