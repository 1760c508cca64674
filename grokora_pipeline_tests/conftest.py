"""What tests of all kinds share: one tiny base model."""

from pathlib import Path

import pytest

from grokora_pipeline_tests.tiny import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model; a test that changes one makes its own."""
    import torch

    torch.set_num_threads(1)  # of so small a model more threads cost more than they give
    return tiny_base(tmp_path_factory.mktemp("base"))
