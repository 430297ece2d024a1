"""HoagyC's sparse_coding: sweeps of Cunningham et al., pickled."""

import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickles import HUGE, bounded_memory, malicious, put
from torch import Tensor

import sae
from sae.interop import PretrainedSAE, restricted_pickle
from sae.interop.sparse_coding import CLASSES

D_IN, D_SAE = 8, 32


class LearnedDict:
    """The original's mathematics: `predict` centres, encodes, decodes and takes the centre back."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ |= {"n_feats": D_SAE, "activation_size": D_IN, **attributes}

    def unit(self, rows: Tensor) -> Tensor:
        return rows / rows.norm(dim=-1).clamp(1e-8)[:, None]

    def center(self, x: Tensor) -> Tensor:
        return x

    def uncenter(self, x: Tensor) -> Tensor:
        return x

    def rows(self) -> Tensor:
        return self.unit(self.encoder) if self.norm_encoder else self.encoder

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.rows().T + self.encoder_bias).clamp(min=0)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.unit(self.encoder)


class TiedSAE(LearnedDict):
    def center(self, x: Tensor) -> Tensor:
        return ((x - self.center_trans) @ self.center_rot.T) * self.center_scale

    def uncenter(self, x: Tensor) -> Tensor:
        return (x / self.center_scale) @ self.center_rot + self.center_trans


class OldTiedSAE(LearnedDict):
    """Without attributes for centring, as before 2023-09."""


class UntiedSAE(LearnedDict):
    def rows(self) -> Tensor:
        return self.encoder

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.unit(self.decoder)


class ReverseSAE(LearnedDict):
    """Decodes as in its training: the original's `decode` sums over the wrong index."""

    def decode(self, acts: Tensor) -> Tensor:
        return torch.where(acts > 0, acts - self.encoder_bias, acts) @ self.rows()


class PCAEncoder(LearnedDict):
    pass


def _randn(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _weights(**more: Any) -> dict[str, Any]:
    encoder = _randn(D_SAE, D_IN, seed=1) * torch.linspace(0.3, 3, D_SAE)[:, None]
    return {"encoder": encoder, "encoder_bias": _randn(D_SAE, seed=2), **more}


def _centring() -> dict[str, Tensor]:
    rotation, _ = torch.linalg.qr(_randn(D_IN, D_IN, seed=3))
    scale = torch.linspace(0.5, 2, D_IN)
    return {"center_trans": _mean(), "center_rot": rotation, "center_scale": scale}


def _identity() -> dict[str, Tensor]:
    ones, eye = torch.ones(D_IN), torch.eye(D_IN)
    return {"center_trans": _mean(), "center_rot": eye, "center_scale": ones}


def _mean() -> Tensor:
    return _randn(D_IN, scale=3.0, seed=4)


def _data() -> Tensor:
    return _randn(200, D_IN, scale=2.0, seed=5) + _mean()


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes are pickled under the names that the original has for them."""
    module = types.ModuleType("autoencoders.learned_dict")
    for cls in (TiedSAE, UntiedSAE, ReverseSAE):
        monkeypatch.setattr(cls, "__module__", module.__name__)
        setattr(module, cls.__name__, cls)
    pca = types.ModuleType("autoencoders.pca")
    monkeypatch.setattr(PCAEncoder, "__module__", pca.__name__)
    setattr(pca, "PCAEncoder", PCAEncoder)  # noqa: B010
    for name, of in (("autoencoders", types.ModuleType("autoencoders")), ("autoencoders.pca", pca)):
        monkeypatch.setitem(sys.modules, name, of)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def _save(folder: Path, *dictionaries: LearnedDict) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "learned_dicts.pt"
    swept = [(it, {"dict_size": D_SAE, "l1_alpha": at / 1e3}) for at, it in enumerate(dictionaries)]
    torch.save(swept, path)
    return path


def _assert_same(ours: sae.SAE, original: LearnedDict, means: Tensor | float = 0.0) -> None:
    x = _data()
    acts = original.encode(original.center(x - means))
    expected = original.uncenter(original.decode(acts)) + means
    assert 0.1 < (acts > 0).float().mean() < 0.9
    assert torch.equal(ours.encode(x) > 0, acts > 0)
    assert torch.allclose(ours.encode(x), acts, rtol=1e-5, atol=1e-5 * acts.max().item())
    assert torch.allclose(ours(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


DICTIONARIES: dict[str, Callable[[], LearnedDict]] = {
    "tied": lambda: TiedSAE(**_weights(norm_encoder=True), **_identity()),
    "tied with a scaled encoder": lambda: TiedSAE(**_weights(norm_encoder=False), **_identity()),
    "tied and centred": lambda: TiedSAE(**_weights(norm_encoder=True), **_centring()),
    "tied, scaled and centred": lambda: TiedSAE(**_weights(norm_encoder=False), **_centring()),
    "untied": lambda: UntiedSAE(**_weights(decoder=_randn(D_SAE, D_IN, scale=3.0, seed=6))),
    "reverse": lambda: ReverseSAE(**_weights(norm_encoder=True)),
    "reverse with a scaled encoder": lambda: ReverseSAE(**_weights(norm_encoder=False)),
}


@pytest.mark.parametrize("make", DICTIONARIES.values(), ids=DICTIONARIES)
def test_features_and_reconstruction_are_those_of_predict(
    tmp_path: Path, make: Callable[[], LearnedDict]
) -> None:
    _save(tmp_path, make())
    _assert_same(sae.load(tmp_path), make())
    _assert_same(sae.load(tmp_path / "learned_dicts.pt"), make())


@pytest.mark.parametrize("make", DICTIONARIES.values(), ids=DICTIONARIES)
def test_means_that_the_sweep_subtracted_are_folded(
    tmp_path: Path, make: Callable[[], LearnedDict]
) -> None:
    means = _randn(D_IN, scale=2.0, seed=7)
    _save(tmp_path / "run" / "_31", make())
    torch.save(means, tmp_path / "run" / "means.pt")
    _assert_same(sae.load(tmp_path / "run" / "_31"), make(), means)
    _save(tmp_path / "beside", make())
    torch.save(means, tmp_path / "beside" / "means.pt")
    _assert_same(sae.load(tmp_path / "beside" / "learned_dicts.pt"), make(), means)
    _assert_same(sae.load(tmp_path / "beside"), make(), means)


def test_means_above_a_folder_that_no_sweep_made_are_another_s(tmp_path: Path) -> None:
    _save(tmp_path / "mine", DICTIONARIES["tied"]())
    torch.save(torch.ones(D_IN), tmp_path / "means.pt")
    _assert_same(sae.load(tmp_path / "mine"), DICTIONARIES["tied"]())


def test_a_tied_dictionary_stays_tied(tmp_path: Path) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    assert sae.load(tmp_path).cfg.tied
    _save(tmp_path, DICTIONARIES["tied and centred"]())
    assert not sae.load(tmp_path).cfg.tied


def test_old_pickles_have_no_centre(tmp_path: Path) -> None:
    weights = _weights(norm_encoder=True)
    _save(tmp_path, TiedSAE(**weights))
    _assert_same(sae.load(tmp_path), OldTiedSAE(**weights))


def test_rows_that_are_zero_are_no_division_by_zero(tmp_path: Path) -> None:
    weights = _weights(norm_encoder=True)
    weights["encoder"][3] = 0.0
    _save(tmp_path, TiedSAE(**weights, **_identity()))
    _assert_same(sae.load(tmp_path), TiedSAE(**weights, **_identity()))


def test_members_of_an_ensemble_share_a_storage(tmp_path: Path) -> None:
    stacked = _randn(3, D_SAE, D_IN, seed=8)
    biases = _randn(3, D_SAE, seed=9)
    made = [UntiedSAE(encoder=e, decoder=e, encoder_bias=b) for e, b in zip(stacked, biases)]  # noqa: B905
    _save(tmp_path, *made)
    for index, member in enumerate(made):
        _assert_same(sae.load(tmp_path, index=index), member)


def test_half_precision_is_read_in_float32(tmp_path: Path) -> None:
    whole = DICTIONARIES["untied"]()
    half = {name: getattr(whole, name).half() for name in ("encoder", "decoder", "encoder_bias")}
    _save(tmp_path, UntiedSAE(**half))
    ours = sae.load(tmp_path)
    assert ours.dtype == torch.float32
    _assert_same(ours, UntiedSAE(**{name: tensor.float() for name, tensor in half.items()}))


# Several in a file -------------------------------------------------------------------------------


def test_an_index_chooses_from_a_file_of_several(tmp_path: Path) -> None:
    made = [DICTIONARIES[name]() for name in ("tied", "untied", "reverse")]
    _save(tmp_path, *made)
    for index, member in enumerate(made):
        _assert_same(sae.load(tmp_path, index=index), member)


def test_without_an_index_the_choices_are_listed_on_one_line(tmp_path: Path) -> None:
    _save(tmp_path, *(DICTIONARIES[name]() for name in ("tied", "untied")))
    with pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    line = str(refused.value)
    assert (
        "holds 2 dictionaries, choose one by its index: 0: TiedSAE, l1_alpha 0, dict_size 32; 1: "
    )
    assert "1: UntiedSAE, l1_alpha 0.001, dict_size 32" in line and "\n" not in line


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: int) -> None:
    _save(tmp_path, *(DICTIONARIES[name]() for name in ("tied", "untied")))
    with pytest.raises(sae.InputError, match=rf"holds 2 dictionaries and none of index {index}"):
        sae.load(tmp_path, index=index)


def test_the_list_of_a_large_sweep_is_cut(tmp_path: Path) -> None:
    _save(tmp_path, *(DICTIONARIES["untied"]() for _ in range(40)))
    with pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    assert "holds 40 dictionaries" in str(refused.value) and len(str(refused.value)) < 1000


# What is known of the run ------------------------------------------------------------------------


SETTINGS = """\
dataset_name: openwebtext
dtype: !!python/object/apply:os.system ['touch trace']
layer: 3
layer_loc: {site}
model_name: EleutherAI/pythia-70m-deduped
nested:
  layer: 5
"""


@pytest.mark.parametrize(
    ("site", "hook_name"),
    [
        ("residual", "blocks.3.hook_resid_post"),
        ("mlp", "blocks.3.mlp.hook_post"),
        ("mlpout", "blocks.3.hook_mlp_out"),
        ("attn_concat", "blocks.3.attn.hook_z"),
        ("attn", None),
    ],
)
def test_the_settings_of_the_sweep_say_model_and_site(
    tmp_path: Path, site: str, hook_name: str | None
) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    (tmp_path / "config.yaml").write_text(SETTINGS.format(site=site))
    ours = sae.load(tmp_path)
    assert ours.metadata["model_name"] == "EleutherAI/pythia-70m-deduped"
    assert ours.metadata["dataset_path"] == "openwebtext"
    assert ours.hook_name == hook_name
    assert not Path("trace").exists()


def test_without_settings_nothing_is_guessed(tmp_path: Path) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    assert sae.load(tmp_path).metadata == {}


def test_a_centred_run_without_its_means_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    (tmp_path / "config.yaml").write_text("center_activations: true\n")
    with pytest.raises(sae.InputError, match=r"means.pt, which says by what, is missing"):
        sae.load(tmp_path)


def test_means_of_another_width_are_refused(tmp_path: Path) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    torch.save(torch.ones(D_IN + 1), tmp_path / "means.pt")
    with pytest.raises(sae.InputError, match=r"means.pt in .* is of shape \(9,\), expected \(8,\)"):
        sae.load(tmp_path)


# Refusals ----------------------------------------------------------------------------------------


def test_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    _save(tmp_path, PCAEncoder(pca=_randn(4, 4)))
    with pytest.raises(sae.InputError, match=r"holds objects of autoencoders.pca.PCAEncoder"):
        sae.load(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"thresholds": torch.ones(4)}, "holds thresholds, which this layout does not have"),
        ({"norm_encoder": 1}, "has 1 for norm_encoder"),
        ({"center_scale": torch.zeros(D_IN)}, "center_scale in .* holds 0"),
        ({"center_trans": torch.full((D_IN,), torch.nan)}, "center_trans in .* holds NaN or Inf"),
        ({"encoder": None}, "lacks the tensor encoder"),
        ({"encoder": torch.ones(3)}, r"encoder in .* is of shape \(3,\)"),
        ({"encoder_bias": torch.ones(3)}, "do not fit together"),
        ({"center_rot": torch.ones(3, 3)}, "center_rot"),
        ({"center_trans": torch.ones(3)}, "center_trans"),
        ({"center_scale": torch.ones(3)}, "center_scale"),
    ],
)
def test_what_cannot_be_had_is_refused(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    dictionary = DICTIONARIES["tied"]()
    dictionary.__dict__ |= attributes
    _save(tmp_path, dictionary)
    with pytest.raises(sae.InputError, match=message):
        sae.load(tmp_path)


@pytest.mark.parametrize(
    "content", [[], [1], [(1, 2, 3)], [({}, {})], {"x": torch.ones(2)}, torch.ones(2), None]
)
def test_other_lists_are_none_of_ours(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "learned_dicts.pt")
    with pytest.raises(sae.InputError, match="none of the layouts"):
        sae.load(tmp_path)


# Strangers ---------------------------------------------------------------------------------------


def test_the_malicious_pickles_would_do_something(tmp_path: Path) -> None:
    for name in ("os.system", "os.mkdir", "eval", "as a member", "by INST"):
        put(tmp_path / "x.pt", malicious(tmp_path / "trace")[name])
        torch.load(tmp_path / "x.pt", weights_only=False)
        assert (tmp_path / "trace").is_dir(), name
        (tmp_path / "trace").rmdir()


@pytest.mark.parametrize("file", ["learned_dicts.pt", "means.pt"])
@pytest.mark.parametrize("name", malicious(Path("trace")))
def test_a_malicious_pickle_is_never_run(tmp_path: Path, name: str, file: str) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    put(tmp_path / file, malicious(tmp_path / "trace")[name])
    with pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
    assert not (tmp_path / "trace").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", malicious(Path("trace")))
def test_the_second_fence_would_do_without_the_first(tmp_path: Path, name: str) -> None:
    put(tmp_path / "x.pt", malicious(tmp_path / "trace")[name])
    with (tmp_path / "x.pt").open("rb") as file, suppress(Exception):
        restricted_pickle.load(file, CLASSES)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("file", ["learned_dicts.pt", "means.pt"])
@pytest.mark.parametrize("name", HUGE)
def test_a_pickle_that_asks_for_too_much_is_refused(tmp_path: Path, name: str, file: str) -> None:
    _save(tmp_path, DICTIONARIES["tied"]())
    put(tmp_path / file, HUGE[name])
    with bounded_memory(), pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_a_dictionary(tmp_path: Path, at: float, byte: int) -> None:
    path = _save(tmp_path, DICTIONARIES["tied and centred"]())
    data = bytearray(path.read_bytes())
    data[int(at * 2000)] = byte  # the pickle comes first
    path.write_bytes(data)
    try:
        assert isinstance(sae.load(path), PretrainedSAE)
    except sae.InputError as error:
        assert "\n" not in str(error)
