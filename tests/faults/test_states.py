"""What a training is made of, in memory and on disk: `Training.state_dict`, `write_state`."""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from sae.architectures import (
    AnySAEConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.base import SAE
from sae.toy import Independent, SparseFeatures
from sae.training import TrainConfig, Training
from sae.training.checkpoint import read_state, write_state
from sae.training.trainer import Trainer


class Drawn:
    """A stream of a user's own, which draws from torch's own generator."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.randn(16, 6).exp()

    def state_dict(self) -> dict[str, Any]:
        return {"random": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["random"])


def features() -> SparseFeatures:
    return SparseFeatures(Independent(torch.full((24,), 0.1)), 6, batch_tokens=16)


KINDS: Sequence[AnySAEConfig] = (
    *(cls(d_sae=12, k=2) for cls in (TopKConfig, BatchTopKConfig, MatryoshkaConfig)),
    *(cls(d_sae=12) for cls in (ReLUConfig, GatedConfig, JumpReLUConfig)),
    *(BatchTopKConfig(d_sae=12, k=2, tied=True), ReLUConfig(d_sae=12, tied=True)),
)


def dictionaries() -> Sequence[SAE]:
    """One of every kind that has a state of its own."""
    return [cfg.build(6) for cfg in KINDS]


def ended(training: Training) -> list[Tensor]:
    """All weights, once it is at its end."""
    with training:
        for _ in training:
            pass
    return [w for trainer in training.trainers for w in trainer.sae.state_dict().values()]


@pytest.mark.parametrize(("stream", "n_steps"), [(features, 0), (Drawn, 4)])
def test_a_training_goes_on_in_another_process_exactly_where_its_state_was_taken(
    stream: Callable[[], Any], n_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "COUNT_STEPS", 2)  # so that forms of steps are chosen here too
    budgets = cycle((160, 100, 130))
    cfgs = [
        TrainConfig(n_tokens=n, init_tokens=60, seed=i, lr=0.02)
        for i, n in zip(range(len(KINDS)), budgets, strict=False)
    ]
    torch.manual_seed(1)
    expected = ended(Training(dictionaries(), stream(), cfgs))
    torch.manual_seed(1)
    first = Training(dictionaries(), stream(), cfgs)
    for _ in range(n_steps):
        next(first)
    write_state(tmp_path / "state", first.state_dict())
    torch.manual_seed(7)
    again = Training(dictionaries(), stream(), cfgs)
    again.load_state_dict(read_state(tmp_path / "state"))
    assert again.n_tokens == first.n_tokens
    for ours, theirs in zip(ended(again), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_can_be_gone_on_from_more_than_once() -> None:
    cfg = TrainConfig(n_tokens=160, on_nan="skip")
    some = lambda: dictionaries()[:2]  # noqa: E731
    first = Training(some(), features(), cfg)
    for _ in range(3):
        next(first)
    state = copy.deepcopy(first.state_dict())
    expected = ended(first)
    for _ in range(2):
        again = Training(some(), features(), cfg)
        again.load_state_dict(state)
        assert all(map(torch.equal, ended(again), expected))


# State on disk -----------------------------------------------------------------------------------

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
BASES = {dtype: torch.arange(24).reshape(2, 3, 4).to(dtype) for dtype in DTYPES}
"""Tensors of one dtype share their memory, wholly or in part."""
VIEWS: Sequence[Callable[[Tensor], Tensor]] = (
    *(lambda x: x, lambda x: x[1, 2, 3], lambda x: x[:0], lambda x: x[1:], lambda x: x[:, ::2]),
    *(lambda x: x.mT, lambda x: x.flatten(), lambda x: x[0, 0, :1].expand(5), torch.clone),
    lambda x: x.new_zeros(0, 3),
)
TENSORS = st.builds(
    lambda x, view: view(x), st.sampled_from([*BASES.values()]), st.sampled_from(VIEWS)
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.integers(-2, 20) | st.sampled_from(["", "a", "a/b", "b", "1", "/", "tensor", "list"])


def nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(children, max_size=3)
    return lists | lists.map(tuple) | st.dictionaries(KEYS, children, max_size=4)


STATES = st.dictionaries(
    KEYS, st.recursive(st.none() | st.booleans() | NUMBERS | st.text() | TENSORS, nested)
)


def assert_equal(found: Any, expected: Any) -> None:
    """Tuples come back as lists; everything else as what it was."""
    if isinstance(expected, dict):
        assert [*found] == [*expected] and [*map(type, found)] == [*map(type, expected)]
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)
    else:
        assert found == expected and type(found) is type(expected)


@given(states=st.lists(STATES, min_size=1, max_size=2))
@example(states=[{"a/b": BASES[torch.bool], "a": {"b": BASES[torch.int8]}}])
@example(states=[{1: BASES[torch.bool], "1": BASES[torch.int8]}])
@example(states=[{"a": BASES[torch.bool], "b": BASES[torch.bool]}])
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_state_comes_back_as_it_was_and_replaces_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, states: Sequence[dict[Any, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("state") / "state"
    for state in states:
        write_state(folder, {"state": state}, lambda aside: (aside / "also").touch())
        assert_equal(read_state(folder), {"state": state})
        assert (folder / "also").is_file() and [*folder.parent.iterdir()] == [folder]
