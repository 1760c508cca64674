"""The presets as data: the plan's seed numbers, what has been learnt since, and what makes the sample quick."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "plan": {
        "rank": 16,
        "alpha": 32.0,
        "rslora": False,
        "dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
        "learning_rate": 1e-4,
        "epochs": 3.0,
        "batch_size": 4,
        "accumulation": 4,
        "max_length": 512,
    },
    "best": {
        "rank": 16,
        "alpha": 32.0,
        "rslora": False,  # alpha is fixed at 32 across ranks instead ("LoRA without regret")
        "dropout": 0.0,
        "target_modules": "all-linear",
        "learning_rate": 2e-4,
        "epochs": 3.0,
        "batch_size": 16,
        "accumulation": 1,
        "max_length": 2048,
    },
    "sample": {
        "rank": 16,
        "alpha": 32.0,
        "rslora": False,
        "dropout": 0.0,
        "target_modules": "all-linear",
        "learning_rate": 2e-3,  # with batches of 4: 1e-3 learns a third less in as many steps, 4e-3 no more than that
        "epochs": 1.0,
        "batch_size": 4,  # small data wants many steps
        "accumulation": 1,
        "max_length": 1024,
        "max_examples": 200,
        "max_validation": 16,
    },
}
