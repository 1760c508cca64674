"""What several integration tests share: one materialized chain."""

import subprocess
from pathlib import Path

import pytest

from grokora_pipeline_tests.chain import demo, make_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the chain; tests that use it belong to the xdist group `chain`."""
    return make_home(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def run(home: Path) -> subprocess.CompletedProcess[str]:
    """The chain's first demo, with what it printed."""
    return demo(home)
