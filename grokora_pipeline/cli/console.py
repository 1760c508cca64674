"""The terminal, for what has colours or columns. All other lines are printed, so that no bracket in them is markup."""

import sys

from rich.console import Console

# 160: without a terminal rich folds at 80 columns, and a folded path cannot be copied
console = Console(width=None if sys.stdout and sys.stdout.isatty() else 160)
