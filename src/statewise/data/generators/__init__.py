"""Generated identification problems that need no files: same seed, same samples."""

from __future__ import annotations

from statewise.data.generators.silverbox_like import silverbox_like
from statewise.data.generators.two_tanks import two_tanks
from statewise.data.generators.wiener_hammerstein import wiener_hammerstein

__all__ = ["silverbox_like", "two_tanks", "wiener_hammerstein"]
