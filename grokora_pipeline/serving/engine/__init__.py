"""Batched multi-adapter generation (torch). Evaluation and the gateway both generate through it."""
