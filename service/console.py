"""The terminal: where commands print, and the mistakes that they tell in one line."""

import sys

from rich.console import Console

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


class CommandError(Exception):
    """The command cannot be carried out; the message says why and what to do."""
