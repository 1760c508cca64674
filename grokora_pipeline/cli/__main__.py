"""`python -m grokora_pipeline.cli` is `grokora`."""

from grokora_pipeline.cli.commands import main

main()
