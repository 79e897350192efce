"""A command line in a process of its own, to be stopped from outside."""

from __future__ import annotations

import signal
import sys

from statewise.cli import main

# A shell that starts jobs in the background lets them ignore the interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
