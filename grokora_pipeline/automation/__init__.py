"""What runs by itself, and what a person starts: jobs, and the sensors that watch the logs and the adapters."""
