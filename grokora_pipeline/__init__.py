"""grokora_pipeline: a swarm's session logs in, proven LoRA adapters out."""
