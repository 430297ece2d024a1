"""Settings of a harvest: which ones cannot work, and what they come to."""

from typing import Any

import pytest
from caches import RESID, refusal

from activation_cache import HarvestConfig


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"forward_tokens": 0}, "forward_tokens must be at least 1, got 0"),
        ({"context_size": 1}, "context_size must be at least 2, got 1"),
        (
            {"batch_tokens": 33, "buffer_tokens": 32},
            "buffer_tokens (32) must hold at least one batch of batch_tokens (33)",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, Any], expected: str) -> None:
    settings: dict[str, Any] = {"hook_names": (RESID,)} | changes
    assert refusal(lambda: HarvestConfig(**settings)) == expected


def test_a_forward_pass_holds_whole_blocks_and_at_least_one() -> None:
    def forward_blocks(forward_tokens: int) -> int:
        cfg = HarvestConfig(hook_names=(RESID,), context_size=100, forward_tokens=forward_tokens)
        return cfg.forward_blocks

    assert [forward_blocks(n) for n in (1, 99, 100, 299, 300)] == [1, 1, 1, 2, 3]
