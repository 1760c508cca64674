"""The external assets: the log files, and what `grokora forget` left out. Others write them, Dagster observes them."""

from collections.abc import Callable

import dagster as dg

from grokora_pipeline.assets.common import Project, plain_errors
from grokora_pipeline.datasets.lineage import forgotten
from grokora_pipeline.sessions.scan import manifest
from grokora_pipeline.store import content_version

LOG_FILES, FORGET_LIST = "session_log_files", "forget_list"
_DESCRIPTIONS = {
    LOG_FILES: "The log files as Grokputer or the gateway wrote them. Never changed by this project.",
    FORGET_LIST: "Sessions and log files that `grokora forget` left out of every dataset.",
}


def source_version(project: Project, key: str) -> str:
    """The present data version of an external asset.

    Of the log files it is the hash of path, size and mtime of each, of the forget list that of its content.
    """
    return content_version(manifest(project.settings.logs) if key == LOG_FILES else forgotten(project.store))


def source_assets(project: Project) -> list[dg.SourceAsset]:
    """`session_log_files` and `forget_list`."""

    def observer(key: str) -> Callable[[], dg.DataVersion]:
        """What Dagster calls to observe one of them."""

        def observe() -> dg.DataVersion:
            """The data version of what is there now."""
            with plain_errors():
                return dg.DataVersion(source_version(project, key))

        return observe

    return [
        dg.observable_source_asset(key=project.key(key), group_name=project.label("sources"), description=description)(
            observer(key)
        )
        for key, description in _DESCRIPTIONS.items()
    ]
