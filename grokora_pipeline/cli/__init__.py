"""The `grokora` command: commands, demo and doctor. The entry point is `cli.commands:main`."""
