"""What a person's own assets get when they take one of ours as an input: see `store/readers.py`."""

from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Store, readers


class StoreReader(dg.ConfigurableIOManager):
    """Reads what an upstream asset published last; our assets write their artifacts themselves.

    The annotation of the input says in which form: see `readers.load`.
    """

    url: str
    cache: str
    name: str = ""  # the project's, with which its asset keys begin

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Refuse: a store holds what the assets of grokora published, and nothing else."""
        raise GrokoraError(f"{context.asset_key.to_user_string()}: the store of grokora is read-only; use your own.")

    def load_input(self, context: dg.InputContext) -> Any:
        """The current artifact of the upstream asset, fetched first if the store is remote."""
        path = context.asset_key.path
        store_key = "/".join(path[1:] if self.name else path)
        kind = context.dagster_type.typing_type
        return readers.load(Store(self.url, Path(self.cache)), store_key, kind)
