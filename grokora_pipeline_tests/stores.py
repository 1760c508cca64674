"""Artifacts for a test's store, published as the assets publish theirs."""

from collections.abc import Mapping

import orjson

from grokora_pipeline.store import Artifact, Store


def publish_files(store: Store, key: str, version: str, files: Mapping[str, object] | None = None) -> Artifact:
    """Publish a version with these files: bytes as they are, everything else as JSON."""
    with store.stage(key) as staged:
        for name, content in (files or {}).items():
            (staged / name).write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
        return store.publish(key, version, staged)
