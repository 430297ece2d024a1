"""What the tests of dictionaries inside a model share."""

import copy

import pytest
import torch
from torch import Tensor

from activation_cache import LanguageModel


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """In float64, so that what is left of a difference is no rounding."""
    small: LanguageModel = request.getfixturevalue(request.param)
    return LanguageModel(f"{small.name} in float64", copy.deepcopy(small.hf).double(), None)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(5, 4000, (2, 9), generator=torch.Generator().manual_seed(0))
