"""Small networks gain nothing from several threads, and the machine of a CI has few."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
