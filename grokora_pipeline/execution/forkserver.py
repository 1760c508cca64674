"""Loaded by the server that steps are forked from: a closed terminal's SIGHUP is for the process of the run alone.

It ends its steps as after Ctrl-C. A step that the signal killed first would leave it in `Event.set`, which waits for
each process that waits for the event, and Dagster 1.13's steps all do (`start_termination_thread`).
"""

import signal

signal.signal(signal.SIGHUP, signal.SIG_IGN)
