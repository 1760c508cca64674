"""The presets as data: the plan's seed numbers, what has been learnt since, and what makes the sample quick."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "plan": {
        "rank": 16,
        "alpha": 32.0,
        "dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
        "learning_rate": 1e-4,
        "epochs": 3.0,
        "batch_size": 4,
        "accumulation": 4,
        "max_length": 512,
    },
    "best": {},  # the defaults of `TrainingKnobs`; alpha is 32 at every rank instead of rsLoRA ("LoRA without regret")
    "sample": {
        "learning_rate": 2e-3,  # with batches of 4: 1e-3 learns a third less in as many steps, 4e-3 no more than that
        "epochs": 1.0,
        "batch_size": 4,  # small data wants many steps
        "max_length": 1024,
        "max_examples": 200,
        "max_validation": 16,
    },
}
