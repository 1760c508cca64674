"""Memory predicted before the run, and the layout that fits it."""
