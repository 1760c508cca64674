"""What a GPU process is: a leased device and a frame for its plan, progress and result. Neither Dagster nor torch."""
