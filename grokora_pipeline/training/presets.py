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
        # SmolLM2 learns the sample with these as well as with all of its linear layers, in 28 % less time a step
        "target_modules": "mlp",
        "last_layers": 20,
        "learning_rate": 1e-3,
        "loraplus_lr_ratio": 4.0,
        "schedule": "linear",
        "epochs": 1.0,
        "batch_size": 4,  # small data wants many steps
        "max_length": 1024,
        "max_examples": 200,
        "max_validation": 16,
    },
}
