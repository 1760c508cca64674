"""`grokora publish`: an agent's dataset as files for other people."""

from pathlib import Path
from typing import Annotated

import typer

from grokora_pipeline.agents import find_agent, load_agents
from grokora_pipeline.settings import get_settings


def publish_dataset(
    agent: Annotated[str, typer.Argument(help="An agent of agents.yaml whose dataset was materialized.")],
    *,
    output: Annotated[Path | None, typer.Option(help="A new folder; <agent>-dataset by default.")] = None,
    licence: Annotated[str, typer.Option(help="What you license the rows under, for the card.")] = "other",
) -> None:
    """Write an agent's dataset as `messages` JSONL and ATIF with a card; refuses if a scan finds a secret."""
    from grokora_pipeline.datasets.publish import publish
    from grokora_pipeline.store import Store

    settings = get_settings()
    spec = find_agent(load_agents(settings.agents), agent)
    publication = publish(Store.of(settings), spec, output or Path(f"{agent}-dataset"), licence=licence)
    rows = ", ".join(f"{count:,} rows for {side}" for side, count in publication.rows.items())
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in publication.left_out.items())
    print(f"{publication.folder}: {rows}" + (f" ({left_out} left out)" if left_out else ""))
    print("Read README.md there before you share it: whose terms the answers are under is your decision.")
