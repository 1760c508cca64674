"""`forget_list`: what `grokora forget` left out, as an external asset, so that forgetting makes the datasets stale."""

import dagster as dg

from grokora_pipeline.assets.common import Project, plain_errors
from grokora_pipeline.datasets.lineage import forgotten
from grokora_pipeline.store import content_version

KEY = "forget_list"


def forget_list_asset(project: Project) -> dg.SourceAsset:
    """The external asset `forget_list`, which `grokora forget` writes."""

    # external: a command writes it, so that Dagster can only observe it
    @dg.observable_source_asset(
        key=project.key(KEY),
        group_name=project.label("sources"),
        description="Sessions and log files that `grokora forget` left out of every dataset.",
    )
    def forget_list() -> dg.DataVersion:
        """The data version of what is forgotten."""
        with plain_errors():
            return dg.DataVersion(forget_list_version(project))

    return forget_list


def forget_list_version(project: Project) -> str:
    """The hash of what is forgotten."""
    return content_version(forgotten(project.store))
