"""``python -m statewise`` is the command ``statewise``."""

import sys

from statewise.cli import main

sys.exit(main())
