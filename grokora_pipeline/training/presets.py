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
        "learning_rate": 1e-3,
        "loraplus_lr_ratio": 4.0,  # learns in as many steps what one rate of 2e-3 does in a sixth more
        "schedule": "linear",
        "epochs": 1.0,
        "batch_size": 4,  # small data wants many steps
        "max_length": 1024,
        "max_examples": 200,
        "max_validation": 16,
    },
}
