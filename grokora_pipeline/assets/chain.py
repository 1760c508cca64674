"""All assets: the swarm's own, and for each agent of agents.yaml its chain from dataset to merged model."""

from collections.abc import Sequence

import dagster as dg

from grokora_pipeline.assets.base_model import base_model_asset
from grokora_pipeline.assets.champion import champion_asset
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.eval_report import eval_report_asset
from grokora_pipeline.assets.export import export_asset
from grokora_pipeline.assets.improvement import improvement_asset
from grokora_pipeline.assets.lora_adapter import lora_adapter_asset
from grokora_pipeline.assets.merged_model import merged_model_asset
from grokora_pipeline.assets.rank_trial import rank_report_asset, rank_trial_asset
from grokora_pipeline.assets.session_logs import session_logs_asset
from grokora_pipeline.assets.sources import source_assets
from grokora_pipeline.assets.swarm_report import swarm_report_asset
from grokora_pipeline.assets.task_dataset import task_dataset_asset
from grokora_pipeline.assets.tokenized_split import tokenized_split_asset

_LINKS = (
    task_dataset_asset,
    tokenized_split_asset,
    lora_adapter_asset,
    eval_report_asset,
    champion_asset,
    merged_model_asset,
    rank_trial_asset,
    rank_report_asset,
    export_asset,
)


def all_assets(project: Project) -> Sequence[dg.AssetsDefinition | dg.SourceAsset]:
    """Every asset of a project."""
    links = [link(project, agent) for agent in project.agents for link in _LINKS]
    swarm = swarm_report_asset(project)  # None if the agents are not the sandbox's four
    improvements = [improvement_asset(project, agent, agent.improve) for agent in project.agents if agent.improve]
    return [
        *source_assets(project),
        session_logs_asset(project),
        base_model_asset(project),
        *links,
        *([swarm] if swarm else []),
        *improvements,
    ]
