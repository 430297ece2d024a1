"""Hand-worked numbers for each architecture."""

import math

import pytest
import torch

from activation_cache.common.errors import InputError
from sae.architectures import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.codes import Codes
from sae.trainable import Entries, TrainableSAE
from sae.training import TrainConfig, Trainer
from sae.training.forward import forward
from sae.training.inputs import norm_scale
from sae.training.running_mean import RunningMean
from sae.training.start import start_


def _set(dictionary: TrainableSAE, **weights: list[float] | list[list[float]]) -> None:
    with torch.no_grad():
        for name, value in weights.items():
            getattr(dictionary, name).copy_(torch.tensor(value))


def _two_by_three(cfg: ReLUConfig | JumpReLUConfig | TopKConfig) -> TrainableSAE:
    """d_in 2, d_sae 3, with b_dec (1, 0), b_enc (0, -1, 0)."""
    dictionary = cfg.build(2)
    _set(
        dictionary,
        W_enc=[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]],
        W_dec=[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
        b_enc=[0.0, -1.0, 0.0],
        b_dec=[1.0, 0.0],
    )
    return dictionary


# x - b_dec = (2, 3), so the pre-activations are (2, 3 - 1, 5) = (2, 2, 5).
X = torch.tensor([[3.0, 3.0]])


def test_relu_encodes_the_centred_input_and_decodes_with_the_bias() -> None:
    dictionary = _two_by_three(ReLUConfig(d_sae=3))
    assert dictionary.encode(X).tolist() == [[2.0, 2.0, 5.0]]
    # 2 * (1, 0) + 2 * (0, 1) + 5 * (0.6, 0.8) + (1, 0)
    assert torch.allclose(dictionary(X), torch.tensor([[6.0, 6.0]]))


def test_relu_penalty_is_the_sum_of_the_features_averaged_over_the_batch() -> None:
    dictionary = _two_by_three(ReLUConfig(d_sae=3, l1_coeff=0.5))
    out = forward(dictionary, torch.cat([X, torch.tensor([[1.0, 1.0]])]))
    # the second token is (0, 1) once centred: pre-activations (0, 0, 1)
    assert out.penalties["l1"].item() == (9.0 + 1.0) / 2
    assert dictionary.cfg.coefficients == {"l1": 0.5, "auxk": 0.5}


def test_topk_keeps_the_largest_features_of_each_token() -> None:
    dictionary = TopKConfig(d_sae=4, k=2).build(3)
    acts = dictionary.activate(torch.tensor([[3.0, -1.0, 2.0, 1.0]]))
    assert isinstance(acts, Codes)
    assert acts.dense().tolist() == [[3.0, 0.0, 2.0, 0.0]]


def test_topk_does_not_fire_features_that_are_not_positive() -> None:
    dictionary = TopKConfig(d_sae=4, k=3).build(3)
    acts = dictionary.activate(torch.tensor([[3.0, -1.0, -2.0, -3.0]]))
    assert isinstance(acts, Codes)
    assert acts.dense().tolist() == [[3.0, 0.0, 0.0, 0.0]]


def test_jumprelu_passes_what_exceeds_its_threshold_unchanged() -> None:
    dictionary = JumpReLUConfig(d_sae=3).build(2)
    _set(dictionary, threshold=[1.0, 1.0, 1.0])
    acts = dictionary.activate(torch.tensor([[0.9, 1.0, 1.1]]))
    assert isinstance(acts, torch.Tensor)
    assert torch.allclose(acts, torch.tensor([[0.0, 0.0, 1.1]]))  # at the threshold is not above it


def test_jumprelu_gradients_are_the_papers_straight_through_estimates() -> None:
    dictionary = JumpReLUConfig(d_sae=3, bandwidth=0.5).build(2)  # for inputs of norm 1, as here
    _set(dictionary, threshold=[1.0, 1.0, 1.0])
    pre_acts = torch.tensor([[0.9, 2.0, 1.2]], requires_grad=True)
    acts, _ = dictionary.activate_entries(Entries(pre_acts), torch.zeros(1, 2))
    (acts * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    # Only active features pass a gradient to their pre-activation ...
    assert pre_acts.grad is not None
    assert pre_acts.grad.tolist() == [[0.0, 10.0, 100.0]]
    # ... and only those within 0.25 of the threshold one to it: -threshold / bandwidth = -2.
    threshold = dict(dictionary.named_parameters())["threshold"]
    assert threshold.grad is not None
    assert threshold.grad.tolist() == [-2.0, 0.0, -200.0]


def test_jumprelu_penalty_counts_features_and_pushes_thresholds_up() -> None:
    dictionary = JumpReLUConfig(d_sae=3, bandwidth=0.5).build(2)
    _set(dictionary, threshold=[1.0, 1.0, 1.0])
    pre_acts = torch.tensor([[0.9, 2.0, 1.2]])
    penalty = dictionary.activate_entries(Entries(pre_acts), torch.zeros(1, 2))[1]["l0"]
    assert penalty.item() == 2.0
    penalty.backward()
    threshold = dict(dictionary.named_parameters())["threshold"]
    assert threshold.grad is not None
    assert threshold.grad.tolist() == [-2.0, 0.0, -2.0]  # -1 / bandwidth within the rectangle


def test_jumprelu_thresholds_do_not_become_negative() -> None:
    dictionary = JumpReLUConfig(d_sae=3).build(2)
    _set(dictionary, threshold=[-0.5, 0.0, 0.5])
    dictionary.constrain_()
    assert dict(dictionary.named_parameters())["threshold"].tolist() == [0.0, 0.0, 0.5]


def test_the_input_scale_brings_the_mean_norm_to_the_root_of_d_in() -> None:
    dictionary = ReLUConfig(d_sae=3).build(4)
    x = torch.tensor([[3.0, 0.0, 4.0, 0.0], [0.0, 15.0, 0.0, 0.0]])  # norms 5 and 15
    assert math.isclose(norm_scale(x), 2.0 / 10.0)
    start_(dictionary, x, norm_scale(x))
    assert torch.allclose(dictionary.b_dec, x.mean(dim=0) * 0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopKConfig(d_sae=8, k=9), r"k must be in 1..d_sae \(8\), got 9"),
        (lambda: TopKConfig(d_sae=8, k=0), r"k must be in 1..d_sae \(8\), got 0"),
        (lambda: ReLUConfig(d_sae=8, l1_coeff=-1.0), "l1_coeff must be at least 0, got -1.0"),
        (lambda: JumpReLUConfig(d_sae=8, l0_coeff=-1.0), "l0_coeff must be at least 0"),
        (lambda: JumpReLUConfig(d_sae=8, bandwidth=0.0), "bandwidth must be positive, got 0.0"),
        (lambda: ReLUConfig(d_sae=0), "d_sae must be at least 1, got 0"),
        (lambda: ReLUConfig(d_sae=3).build(0), "d_in must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()


# BatchTopK ---------------------------------------------------------------------------------------


def test_batch_topk_keeps_the_largest_of_the_batch_not_of_each_token() -> None:
    dictionary = BatchTopKConfig(d_sae=3, k=1).build(2)
    pre_acts = torch.tensor([[5.0, 4.0, 1.0], [2.0, -1.0, 0.5]])  # two tokens, so two are kept
    chosen, values = dictionary.support(pre_acts)
    assert chosen.tolist() == [[0, 1], [-1, -1]]
    assert values[0].tolist() == [5.0, 4.0]


def test_batch_topk_never_counts_what_is_not_positive() -> None:
    dictionary = BatchTopKConfig(d_sae=3, k=2).build(2)
    assert dictionary.support(torch.tensor([[-1.0, 3.0, -2.0]]))[0].tolist() == [[1]]


def test_batch_topk_chooses_the_same_whatever_its_threshold_says() -> None:
    pre_acts = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    dictionary = BatchTopKConfig(d_sae=24, k=3).build(4)
    chosen = []
    for threshold in (0.0, 0.5, 1.5, 100.0):
        dictionary.threshold.fill_(threshold)
        chosen.append(dictionary.support(pre_acts)[0])
    assert all(torch.equal(chosen[0], other) for other in chosen[1:])
    assert (chosen[0] >= 0).sum() == 16 * 3


def test_batch_topk_threshold_is_an_average_of_the_last_steps() -> None:
    dictionary = BatchTopKConfig(d_sae=3, k=1).build(2)
    running = RunningMean(torch.device("cpu"))

    def observe(*kept: float, n_steps: int) -> float:
        value = dictionary.statistic(torch.tensor([[*kept, 0.0]]))
        running.update(value, torch.tensor(True), n_steps)
        dictionary.set_statistic_(running.value)
        return dictionary.threshold[0].item()

    assert observe(2.0, 7.0, n_steps=0) == pytest.approx(2.0)
    # The last twentieth of the steps counts: of 20, the last one alone.
    assert observe(3.0, 4.0, n_steps=20) == pytest.approx(3.0)
    # And a hundred steps at most, with weights .99 and .01.
    assert observe(4.0, 5.0, n_steps=2000) == pytest.approx(0.99 * 3 + 0.01 * 4)
    before = dictionary.threshold[0].item()
    assert observe(0.0, 0.0, n_steps=2001) == before  # a batch without features changes nothing


def test_a_trainer_keeps_the_threshold_of_batch_topk() -> None:
    trainer = Trainer(BatchTopKConfig(d_sae=8, k=1).build(4), TrainConfig(n_tokens=64))
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    trainer.initialise(x)
    acts = trainer.forward(x).acts
    assert isinstance(acts, Codes)
    smallest = acts.values[acts.values > 0].min()
    trainer.step(x)
    assert torch.allclose(trainer.sae.threshold, smallest)  # of the step, before its update


def test_batch_topk_encodes_a_token_without_its_batch() -> None:
    dictionary = BatchTopKConfig(d_sae=3, k=1).build(2)
    dictionary.threshold.fill_(1.5)
    pre_acts = torch.tensor([[5.0, 4.0, 1.0], [1.5, 1.6, -3.0]])
    acts = dictionary.activate(pre_acts)
    assert torch.equal(acts, torch.tensor([[5.0, 4.0, 0.0], [0.0, 1.6, 0.0]]))


# Matryoshka --------------------------------------------------------------------------------------


def test_matryoshka_sums_the_errors_of_its_prefixes() -> None:
    dictionary = MatryoshkaConfig(d_sae=3, k=3, prefixes=(1, 2, 3)).build(2)
    _set(
        dictionary,
        W_enc=[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]],
        W_dec=[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
        b_enc=[0.0, -1.0, 0.0],
        b_dec=[1.0, 0.0],
    )
    # Features (2, 2, 5). One: (2, 0) + b_dec = (3, 0), off by (0, 3). Two: (3, 2), off by (0, 1).
    assert forward(dictionary, X).penalties["nested"].item() == pytest.approx(9.0 + 1.0)
    assert forward(dictionary, X, sparse=False).penalties["nested"].item() == pytest.approx(10)


def test_matryoshka_prefixes_by_default_halve_down_to_a_sixteenth() -> None:
    assert MatryoshkaConfig(d_sae=1536).prefixes == (96, 192, 384, 768, 1536)
    assert MatryoshkaConfig(d_sae=4, k=1).prefixes == (1, 2, 4)


@pytest.mark.parametrize("prefixes", [(4, 2, 8), (2, 4), (0, 8), (4, 4, 8), (4, 16)])
def test_matryoshka_prefixes_must_rise_to_the_whole(prefixes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="prefixes must rise from at least 1 to d_sae"):
        MatryoshkaConfig(d_sae=8, k=1, prefixes=prefixes)


# Gated -------------------------------------------------------------------------------------------


def _gated() -> TrainableSAE:
    dictionary = GatedConfig(d_sae=3).build(2)
    _set(
        dictionary,
        W_enc=[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]],
        W_dec=[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
        b_enc=[0.0, -1.0, -6.0],
        b_dec=[1.0, 0.0],
        r_mag=[math.log(2.0), 0.0, 0.0],
        b_mag=[0.5, -5.0, 1.0],
    )
    return dictionary


def test_gated_features_have_the_magnitude_that_their_gate_lets_through() -> None:
    # (x - b_dec) W_enc = (2, 3, 5). Gates (2, 2, -1): the third is closed. Magnitudes
    # 2 * 2 + 0.5, relu(3 - 5) and, behind the closed gate, 5 + 1.
    assert _gated().encode(X).tolist() == [[4.5, 0.0, 0.0]]


def test_the_gates_are_penalised_and_trained_to_rebuild_the_input() -> None:
    dictionary = _gated()
    penalties = forward(dictionary, X).penalties
    assert penalties["l1"].item() == 4.0  # gates 2 and 2
    # 2 * (1, 0) + 2 * (0, 1) + b_dec = (3, 2) for x = (3, 3).
    assert penalties["gate_error"].item() == pytest.approx(1.0)
    penalties["gate_error"].backward()
    assert dictionary.W_dec.grad is None or not dictionary.W_dec.grad.any()
    assert dictionary.b_enc.grad is not None and dictionary.b_enc.grad.tolist() == [0.0, -2.0, 0.0]
