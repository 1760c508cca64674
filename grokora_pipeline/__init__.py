"""grokora_pipeline: a swarm's session logs in, proven LoRA adapters out.

`Swarm` (a Dagster component) and `build_defs` (the same as a function) are loaded when they are first asked for, so
that GPU processes, which import this package too, never import Dagster.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grokora_pipeline.component import Swarm
    from grokora_pipeline.factory import build_defs

__all__ = ["Swarm", "build_defs"]


def __getattr__(name: str) -> Any:
    if name == "Swarm":
        from grokora_pipeline.component import Swarm

        return Swarm
    if name == "build_defs":
        from grokora_pipeline.factory import build_defs

        return build_defs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]  # `dg` finds components by their names
