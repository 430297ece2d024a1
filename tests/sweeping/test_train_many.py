"""Several dictionaries trained on the same batches, each with a configuration of its own."""

from collections.abc import Sequence
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
from sae.training import TrainConfig, train

CONFIGS: Sequence[AnySAEConfig] = [
    config
    for tied in (False, True)
    for config in (
        TopKConfig(d_sae=12, k=2, tied=tied),
        BatchTopKConfig(d_sae=12, k=2, tied=tied),
        MatryoshkaConfig(d_sae=12, k=2, tied=tied),
        ReLUConfig(d_sae=12, tied=tied),
        GatedConfig(d_sae=12, tied=tied),
        JumpReLUConfig(d_sae=12, tied=tied),
    )
]


def batches_of(lengths: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 6, generator=generator).exp() for length in lengths]


def trained(sae: SAE, batches: Sequence[Tensor], cfg: TrainConfig) -> list[dict[str, Any]]:
    return [said(record) for record in train(sae, batches, cfg)]


def said(record: Any) -> dict[str, Any]:
    """Everything of a record but which dictionary it is of."""
    values = {**vars(record), **{f"part {name}": x for name, x in record.parts.items()}}
    del values["dictionary"], values["parts"]
    return {name: x.item() if isinstance(x, Tensor) else x for name, x in values.items()}


@given(
    configs=st.lists(st.sampled_from(CONFIGS), min_size=2, max_size=3),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    init_tokens=st.tuples(*3 * [st.integers(1, 60)]),
    n_tokens=st.tuples(*3 * [st.integers(1, 120)]),
)
@example(  # the second looks at three batches before the first, which stops at once
    configs=[CONFIGS[1], CONFIGS[3]],
    lengths=[7, 7, 7, 7],
    init_tokens=(8, 15, 1),
    n_tokens=(7, 28, 1),
)
@pytest.mark.filterwarnings("ignore:the stream ended")
@hypothesis_settings(max_examples=8, deadline=None)
def test_dictionaries_with_other_heads_and_ends_get_what_each_gets_alone(
    configs: Sequence[AnySAEConfig],
    lengths: Sequence[int],
    init_tokens: Sequence[int],
    n_tokens: Sequence[int],
) -> None:
    batches = batches_of(lengths)
    cfgs = [
        TrainConfig(init_tokens=init, n_tokens=n, seed=i, lr=0.01 * (i + 1))
        for i, (init, n, _) in enumerate(zip(init_tokens, n_tokens, configs, strict=False))
    ]
    together = [config.build(6, seed=i) for i, config in enumerate(configs)]
    records: list[list[dict[str, Any]]] = [[] for _ in configs]
    for record in train(together, iter(batches), cfgs):
        records[record.dictionary].append(said(record))
    for i, config in enumerate(configs):
        alone = config.build(6, seed=i)
        assert repr(trained(alone, batches, cfgs[i])) == repr(records[i])  # NaN equals NaN
        for name, weights in alone.state_dict().items():
            assert torch.equal(
                weights.nan_to_num(7.0), together[i].state_dict()[name].nan_to_num(7.0)
            )


def test_a_batch_is_left_as_it_is_by_those_that_train_on_it() -> None:
    batches = batches_of([16, 16])
    before = [batch.clone() for batch in batches]
    saes = [config.build(6) for config in CONFIGS]
    for _ in train(saes, batches, TrainConfig(n_tokens=32)):
        pass
    assert all(torch.equal(a, b) for a, b in zip(batches, before, strict=True))


def test_each_dictionary_stops_at_its_own_budget_and_the_stream_is_read_no_further() -> None:
    stream = iter(batches_of([16] * 10))
    saes = [TopKConfig(d_sae=12, k=2).build(6) for _ in range(2)]
    cfgs = [TrainConfig(n_tokens=32), TrainConfig(n_tokens=64)]
    seen = [(record.dictionary, record.n_tokens) for record in train(saes, stream, cfgs)]
    assert seen == [(0, 16), (1, 16), (0, 32), (1, 32), (1, 48), (1, 64)]
    assert len(list(stream)) == 6


def test_as_many_configs_as_dictionaries_are_wanted() -> None:
    saes = [TopKConfig(d_sae=12, k=2).build(6) for _ in range(2)]
    with pytest.raises(ValueError):
        next(train(saes, batches_of([16]), [TrainConfig()]))
