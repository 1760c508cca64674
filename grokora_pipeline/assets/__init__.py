"""The chain, a file a link; `chain.py` lists them all."""
