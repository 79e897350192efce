"""One module for each paper, with the name ``PAPER`` in it."""
