"""Assets made in this process, with a function in place of the worker process that would need a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.assets.common import Project

Work = Callable[[str, dict[str, Any], Path], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Gpu:
    """Stands for `GpuProcess`."""

    work: Work

    def run(self, context: dg.AssetExecutionContext, module: str, plan: dict[str, Any], output: Path) -> dict[str, Any]:
        return self.work(module, plan, output)


def materialize(
    project: Project, assets: Sequence[dg.AssetsDefinition], work: Work, **config: Any
) -> dg.ExecuteInProcessResult:
    """Make assets where a worker, of this module and with this plan and output, does that; the first's config."""
    ops = {assets[0].op.name: {"config": config}} if config else {}
    resources = {**project.resources(), project.gpu_resource: _Gpu(work)}
    return dg.materialize(assets, run_config={"ops": ops}, resources=resources, raise_on_error=False)
