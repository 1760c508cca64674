"""`python -m grokora_pipeline.training plan.json`, also under `accelerate launch -m`: trains one adapter.

On several visible GPUs (or with the knob `num_processes`) it launches one process for each by itself.

Plan: {base, split, output, agent, knobs, versions, base_id?, work?}. The result is what `training.json` holds.
"""

import os
import sys

from grokora_pipeline.training.launch import become_launcher
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run


def train_lazily(plan: Plan, reporter: Reporter) -> Result:
    """Say what takes the first seconds, then import it and train (`run.train`)."""
    reporter.log("Loading torch, transformers and peft")
    from grokora_pipeline.training.run import train

    return train(plan, reporter)


if __name__ == "__main__":
    # oneDNN keeps 1,024 kernels by default; every new length makes some thirty, and memory would grow step by step.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    sys.exit(run(train_lazily, launch=become_launcher))
