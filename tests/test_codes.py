import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.codes import Codes, fire_counts

W_DEC = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def test_dense_puts_each_value_at_its_feature() -> None:
    codes = Codes(torch.tensor([[2, 0], [1, 0]]), torch.tensor([[3.0, 1.0], [2.0, 0.0]]), 3)
    assert codes.dense().tolist() == [[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]]


def test_decode_adds_the_decoder_rows_of_the_active_features() -> None:
    codes = Codes(torch.tensor([[2, 0], [1, 0]]), torch.tensor([[3.0, 1.0], [2.0, 0.0]]), 3)
    # 3 * (1, 1) + 1 * (1, 0), and 2 * (0, 1)
    assert codes.decode(W_DEC).tolist() == [[4.0, 3.0], [0.0, 2.0]]


def test_negative_features_are_active() -> None:
    dense = torch.tensor([[-3.0, 0.0, 1.0], [0.0, 0.0, -2.0]])
    codes = Codes.from_dense(dense)
    assert codes.dense().equal(dense)
    assert codes.counts.tolist() == [2, 1]


def test_padding_does_not_fire() -> None:
    codes = Codes(torch.tensor([[2, 0], [1, 0]]), torch.tensor([[3.0, 1.0], [2.0, 0.0]]), 3)
    assert fire_counts(codes).tolist() == [1, 1, 1]
    assert fire_counts(codes.dense()).tolist() == [1, 1, 1]


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(1, 8), st.integers(0, 2**31))
def test_sparse_and_dense_agree_whatever_is_active(batch: int, d_sae: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(batch, d_sae, generator=generator).relu()
    W_dec = torch.randn(d_sae, 3, generator=generator)
    codes = Codes.from_dense(acts)
    assert torch.equal(codes.dense(), acts)
    assert torch.allclose(codes.decode(W_dec), acts @ W_dec, atol=1e-5)
    assert fire_counts(codes).tolist() == fire_counts(acts).tolist()


def test_gradients_of_the_sparse_decode_equal_those_of_the_dense_one() -> None:
    torch.manual_seed(0)
    pre_acts = torch.randn(5, 7, dtype=torch.float64)
    W_dec = torch.randn(7, 4, dtype=torch.float64)
    target = torch.randn(5, 4, dtype=torch.float64)
    gradients = []
    for sparse in (True, False):
        x, w = pre_acts.clone().requires_grad_(), W_dec.clone().requires_grad_()
        values, indices = x.topk(3, dim=1)
        codes = Codes(indices, values.relu(), 7)
        x_hat = codes.decode(w) if sparse else codes.dense() @ w
        ((x_hat - target) ** 2).sum().backward()
        assert x.grad is not None and w.grad is not None
        gradients.append((x.grad, w.grad))
    for ours, reference in zip(*gradients, strict=True):
        assert torch.allclose(ours, reference, atol=1e-12)
