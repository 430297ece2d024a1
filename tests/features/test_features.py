"""What is collected of every feature, against the simplest way to find it out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import called
from small_features import (
    D_SAE,
    N_POS,
    SMALL,
    Table,
    collect_whole,
    cut,
    dictionary,
    files,
    generator,
    small_text,
)
from small_models import LAYER, RESID_MID, RESID_POST
from torch import Tensor

import sae
import sae.features
from activation_cache import LanguageModel, SourceConfig, text_batches
from sae.architectures import TopKConfig
from sae.commands import features as features_script
from sae.features import CollectConfig
from sae.features.summary import Group, statistics


@pytest.fixture(scope="module")
def text() -> tuple[Tensor, Tensor]:
    return small_text()


# Against the simplest way ------------------------------------------------------------------------


def test_numbers_are_those_of_all_features_at_once(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    found = collect_whole(text, tmp_path / "f")
    tokens, counted = text
    acts = dictionary().encode(Table().table[tokens]) * counted[..., None]
    rows = acts[counted].double().numpy()
    assert len(found) == D_SAE and found.facts.n_tokens == len(rows)
    for i, feature in enumerate(found):
        active = rows[:, i][rows[:, i] > 0]
        assert feature.n_active == len(active)
        assert feature.density == pytest.approx(len(active) / len(rows))
        assert feature.max == (active.max() if len(active) else 0)
        assert feature.mean_square == pytest.approx((rows[:, i] ** 2).mean())
        if len(active):
            assert feature.mean_active == pytest.approx(active.mean())
            assert feature.std_active == pytest.approx(active.std())
            expected = np.histogram(active, 4, (0, active.max()))[0]
            assert found.numbers("histogram", i).tolist() == expected.tolist()
        on = tokens[acts[..., i] > 0].tolist()
        by_count = sorted(set(on), key=lambda token: (-on.count(token), token))[:3]
        assert feature.tokens == [(token, on.count(token)) for token in by_count]
    assert found[3].n_active == 0 and found[3].contexts == [] and found[3].tokens == []


def test_contexts_are_the_blocks_with_the_largest_values_and_some_of_each_quantile(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    found = collect_whole(text, tmp_path / "f")
    tokens, counted = text
    acts = dictionary().encode(Table().table[tokens]) * counted[..., None]
    for i, feature in enumerate(found):
        flat = acts[..., i].flatten().tolist()
        ranked = sorted((-value, position) for position, value in enumerate(flat) if value > 0)
        best: dict[int, int] = {}
        for _, position in ranked:
            best.setdefault(position // N_POS, position)
        assert [c.position for c in feature.top] == list(best.values())[:3]
        n = len(ranked)
        thirds = [ranked[k * n // 3 : (k + 1) * n // 3] for k in range(3)]
        groups = [f"quantile {k / 3:g} to {(k + 1) / 3:g}" for k in (2, 1, 0)]
        for name, of_third in zip(groups, thirds, strict=True):
            its = [c for c in feature.contexts if c.kind == name]
            ids = sorted({len(of_third) // 4, 3 * len(of_third) // 4}) if of_third else []
            assert [c.position for c in its] == [of_third[k][1] for k in ids]
        for context in feature.contexts:
            block, pos = divmod(context.position, N_POS)
            start, end = max(0, pos - 3), min(N_POS, pos + 2)
            assert context.value == flat[context.position]
            assert context.token_ids == tokens[block, start:end].tolist()
            assert context.values == acts[block, start:end, i].tolist()
            assert context.at == pos - start


def test_features_are_counted_together_on_a_token_and_on_those_beside_it(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    found = collect_whole(text, tmp_path / "f")
    tokens, counted = text
    on = (dictionary().encode(Table().table[tokens]) * counted[..., None] > 0).double()
    for side, here, there in (
        ("with", on, on),
        ("before", on[:, 1:], on[:, :-1]),
        ("after", on[:, :-1], on[:, 1:]),
    ):
        pairs = torch.einsum("bpi,bpj->ij", here, there)
        n_looked_at = here.sum(dim=(0, 1))
        if side == "with":
            pairs.fill_diagonal_(0)
        for i, feature in enumerate(found):
            others = sorted(range(D_SAE), key=lambda j: (-pairs[i, j].item(), j))[:3]
            expected = [(j, (pairs[i, j] / n_looked_at[i]).item()) for j in others if pairs[i, j]]
            assert [(j, pytest.approx(share)) for j, share in feature.together(side)] == expected


def test_neighbours_and_alignment_are_cosines(text: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    found, its = collect_whole(text, tmp_path / "f"), dictionary()
    cosines = torch.nn.functional.normalize(its.W_dec, dim=1)
    cosines = (cosines @ cosines.T).fill_diagonal_(-2)
    for i, feature in enumerate(found):
        best = cosines[i].topk(3)
        assert [j for j, _ in feature.neighbours] == best.indices.tolist()
        assert [c for _, c in feature.neighbours] == pytest.approx(best.values.tolist(), abs=1e-6)
        expected = torch.cosine_similarity(its.W_enc[:, i], its.W_dec[i], dim=0).item()
        assert feature.alignment == pytest.approx(expected, abs=1e-6)


@given(data=st.data(), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_numbers_of_a_group_are_those_of_each_feature_by_itself(
    data: st.DataObject, sizes: list[int]
) -> None:
    floats = st.floats(-1e3, 1e3, width=32).filter(lambda x: abs(x) > 1e-3)
    each = [np.array(data.draw(st.lists(floats, min_size=n, max_size=n)), "f4") for n in sizes]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    positions = np.concatenate([np.arange(n) for n in sizes])
    group = Group(0, offsets, positions, np.concatenate(each))
    found = statistics(group, np.array([4, 2, 2, 4, 7, 7, 1, 1, 7]), 10, CollectConfig(n_bins=7))
    for i, values in enumerate(v.astype(np.float64) for v in each):
        low, high = min(0.0, values.min(initial=0)), values.max() if len(values) else 0.0
        edges = (low, high if high > low else low + 1)
        assert found["histogram"][i].tolist() == np.histogram(values, 7, edges)[0].tolist()
        assert (found["min"][i], found["max"][i]) == (low, high)
        assert found["mean_square"][i] == (values**2).sum() / 10
        if len(values):
            assert (found["mean_active"][i], found["std_active"][i]) == (
                values.mean(),
                values.std(),
            )


def test_the_bytes_do_not_depend_on_how_many_features_are_summed_up_at_once(
    text: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("build", "folder"):
        monkeypatch.setattr(f"sae.features.{module}.FEATURES_IN_GROUP", 2)
    whole = collect_whole(text, tmp_path / "whole")
    assert [c.position for f in whole for c in f.contexts]
    for at_once in (1, 50, 120):
        for module in ("gathered", "summary"):
            monkeypatch.setattr(f"sae.features.{module}.ENTRIES_AT_ONCE", at_once)
        parts = collect_whole(text, tmp_path / f"{at_once}").folder
        assert files(parts) == files(whole.folder)
    monkeypatch.setattr("sae.features.summary.FEATURES_AT_ONCE", 4)
    assert files(collect_whole(text, tmp_path / "4").folder) == files(whole.folder)


# What features do to the logits ------------------------------------------------------------------


@pytest.mark.parametrize("site", ["hook_resid_post", "mlp.hook_post", "attn.hook_z"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_effect_on_the_logits_is_a_finite_difference(
    request: pytest.FixtureRequest, name: str, site: str
) -> None:
    """Of a small step behind the last layer, times the size of the stream there; what the step
    does to that size is left out."""
    model: LanguageModel = request.getfixturevalue(name)
    hook_name = f"blocks.{LAYER}.{site}"
    assert model.n_layers - 1 == LAYER
    tokens = torch.tensor([[11, 12, 13]])
    direction = torch.randn(1, model.width(hook_name), generator=generator(3))
    step = direction
    if site != "hook_resid_post":
        output = model.sites[hook_name].module
        step = output(direction) - output(torch.zeros_like(direction))

    def logits(by: float) -> Tensor:
        found = model.logits(tokens, {RESID_POST: lambda x: x + by * step})[0, -1].double()
        return found - found.mean()

    stream = model.activations(tokens, [RESID_POST])[RESID_POST][0, -1:]
    if name == "gpt2":  # its norm takes the mean away
        stream, step_across = (x - x.mean() for x in (stream, step))
    else:
        step_across = step
    size = stream.square().mean().sqrt()
    along = stream / stream.norm()
    to_size = model.direct_effect(RESID_POST)((step_across @ along.T) * along)
    expected = model.direct_effect(hook_name)(direction) - to_size
    difference = (logits(1e-2) - logits(-1e-2)) / 2e-2 * size
    assert torch.allclose(difference, expected[0].double(), atol=5e-3 * expected.abs().max().item())


def test_logits_and_text_of_a_real_model_are_in_the_folder(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    its = TopKConfig(d_sae=64, k=8).build(tiny.width(RESID_MID))
    its.provenance = sae.Provenance(hook_name=RESID_MID)
    tokens = torch.randint(5, 4000, (4, 32), generator=generator(4))
    counted = torch.ones_like(tokens, dtype=torch.bool)
    found = sae.features.collect(
        tiny, its, [(tokens, counted)], tmp_path, CollectConfig(n_top=2), progress=False
    )
    feature = next(f for f in found if f.n_active > 20)
    effect = tiny.direct_effect(RESID_MID)(its.W_dec[feature.index][None])[0]
    best, worst = effect.topk(10), (-effect).topk(10)
    assert [i for i, _ in feature.logits] == best.indices.tolist() + worst.indices.tolist()[::-1]
    context = sae.features.open(tmp_path)[feature.index].top[0]
    assert context.text == "".join(tiny.tokenizer.decode([i]) for i in context.token_ids)
    assert context.value == feature.max == max(context.values)
    assert f"[[{context.tokens[context.at]}]]" in repr(context).encode().decode("unicode_escape")
    assert str(feature.index) in repr(feature)


def test_a_site_that_no_matrix_brings_into_the_stream_has_no_logits(tiny: LanguageModel) -> None:
    with pytest.raises(sae.InputError, match="not added to the residual stream by a matrix"):
        tiny.direct_effect("blocks.1.attn.hook_q")


# The command -------------------------------------------------------------------------------------


def test_the_command_collects_the_features_of_a_saved_dictionary(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    its = TopKConfig(d_sae=32, k=4).build(tiny.width(RESID_MID))
    its.provenance = sae.Provenance(model_name="tiny", hook_name=RESID_MID, context_size=64)
    sae.save(its, tmp_path / "dictionary")
    text = tmp_path / "text.txt"
    text.write_text("One paragraph of text, a [bold] one.\n\n" * 2000)
    flags = ("--n-tokens", "3000", "--dataset", text, "--out", tmp_path / "features")
    done = called(features_script.main, tmp_path / "dictionary", *flags)
    assert done.code == 0, done.err
    found = sae.features.open(tmp_path / "features")
    assert (len(found), found.facts.context_size) == (32, 64)
    assert found.facts.provenance["dataset_path"] == str(text)
    n_blocks = -(-3000 // 64)
    assert found.facts.n_tokens == n_blocks * 63 - sum(
        int((tokens[:, 1:] == tiny.tokenizer.bos_token_id).sum())
        for tokens, *_ in text_batches(
            tiny, SourceConfig(dataset=(str(text),), context_size=64), 3000
        )
    )
    page = tmp_path / "features" / "index.html"
    assert "fires on" in done.out and f"pages        {page}\n" in done.out and page.exists()
    page.unlink()
    written = (tmp_path / "features" / "features.json").stat().st_mtime_ns
    again = called(features_script.main, tmp_path / "dictionary", *flags)
    assert again.code == 0 and page.exists()
    assert (tmp_path / "features" / "features.json").stat().st_mtime_ns == written
    its.W_dec.data.neg_()
    sae.save(its, tmp_path / "dictionary")
    other = called(features_script.main, tmp_path / "dictionary", *flags)
    assert other.code == 2 and "features of another dictionary: give another --out" in other.err


def test_a_dictionary_of_activations_without_text_has_no_features(tmp_path: Path) -> None:
    its = TopKConfig(d_sae=8, k=2).build(4)
    its.provenance = sae.Provenance(activations_path="x.npy")
    sae.save(its, tmp_path / "dictionary")
    done = called(features_script.main, tmp_path / "dictionary")
    assert done.code == 2 and "features need a model and text" in done.err


# Refusals ----------------------------------------------------------------------------------------


def test_what_cannot_be_collected_or_read_is_one_line(
    text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    nothing = (text[0], torch.zeros_like(text[1]))
    homeless = dictionary()
    homeless.provenance = sae.Provenance()
    infinite = dictionary()
    infinite.b_enc.fill_(torch.inf)
    longer = [(text[0][:7], text[1][:7]), (text[0][7:, 1:], text[1][7:, 1:])]
    for its, batches, message in (
        (dictionary(), cut(nothing, [14]), "no token of the text counts"),
        (homeless, cut(text, [14]), "does not know its site"),
        (dictionary(), longer, "must have the same length: got 5 tokens after 6"),
        ([dictionary(), dictionary()], cut(text, [14]), "several dictionaries of one site"),
        (infinite, cut(text, [14]), "NaN or infinite in blocks 0 to 13 of the text"),
    ):
        with pytest.raises(sae.InputError, match=message):
            sae.features.collect(Table(), its, batches, tmp_path / message, SMALL, progress=False)
    with pytest.raises(sae.InputError, match="no features in"):
        sae.features.open(tmp_path)
    found = collect_whole(text, tmp_path / "f")
    with pytest.raises(IndexError, match="no feature 9: there are 0 to 8"):
        found[9]
    with pytest.raises(AttributeError, match="a feature has no 'maximum'"):
        found[0].maximum  # noqa: B018 - it is asked for
    (tmp_path / "f" / "features.json").write_text('{"schema_version": 1}')
    with pytest.raises(sae.InputError, match=r"features\.json"):
        sae.features.open(tmp_path / "f")
