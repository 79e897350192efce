"""The ``statewise`` command."""

from __future__ import annotations

from statewise.cli.app import main

__all__ = ["main"]
