"""Features as Neuronpedia takes them: every field against the published schema, and by hand."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import called
from small_models import RESID_MID
from torch import Tensor

import sae
import sae.features
from activation_cache import LanguageModel
from sae.architectures import ReLUConfig, TopKConfig
from sae.commands import features as features_script
from sae.features import CollectConfig, to_neuronpedia
from sae.features.neuronpedia.dashboard import OUT_OF_RANGE, pieces_of
from sae.features.neuronpedia.source import SourceName
from sae.features.weights import logit_histograms

NAME, SITE = "gpt2-small/4-res-mine__k-8", "blocks.4.hook_resid_pre"
SMALL = CollectConfig(
    n_top=2, n_groups=2, n_of_group=1, tokens_before=1, tokens_after=1, n_bins=4, n_tokens=2,
    n_together=1, n_looked_at=8, n_neighbours=1,
)  # fmt: skip
PIECES = ["\u0120a", "</script>\u2028", "\u010a", '\\u0000\x00"', "\u00c3"]
WORDS = [" a", "</script>\u2028", "\n", '\\u0000\x00"', "\u00c3"]
"""The same in Neuronpedia: of a byte-level vocabulary, a part of a letter stays as it is."""


class Tokenizer:
    def __len__(self) -> int:
        return len(PIECES)

    def decode(self, ids: list[int]) -> str:
        return f"text {ids[0]}"

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [PIECES[i] for i in ids]


class Table:
    """Activations are looked up by token id, and logits are a matrix product."""

    tokenizer, n_layers = Tokenizer(), 12
    table = torch.tensor([[1.0, 0], [2, 0], [4, 1], [0, 0], [8, 0]])
    unembedding = torch.tensor([[1.0, 0, -1, 2, 0], [0, 1, 0, 0, 2]])

    def activations(self, tokens: Tensor, hook_names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self.table[tokens] for name in hook_names}

    def direct_effect(self, hook_name: str) -> Callable[[Tensor], Tensor]:
        assert hook_name == SITE
        return lambda rows: rows @ self.unembedding


def _dictionary() -> sae.SAE[Any]:
    """Features that are the first and the second neuron, and one that is never active."""
    made = ReLUConfig(d_sae=3).build(2)
    assert made.untied_W_enc_rows is not None
    made.untied_W_enc_rows.data.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
    made.W_dec.data.copy_(torch.tensor([[3.0, -1], [0, 2], [1, 1]]))
    made.provenance = sae.Provenance(hook_name=SITE, dataset_path="a text")
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> sae.features.Features:
    """Of two blocks of four tokens, the first of which does not count."""
    tokens = torch.tensor([[0, 1, 2, 3], [0, 4, 2, 1]])
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = False
    folder = tmp_path_factory.mktemp("features") / "f"
    return sae.features.collect(
        Table(), _dictionary(), [(tokens, counted)], folder, SMALL, progress=False
    )


def _export(features: sae.features.Features, out: Path, model: Any = None) -> Path:
    return to_neuronpedia(features, _dictionary(), NAME, out, model=model, progress=False)


def _rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.iterdir())
    lines = [line for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    return [json.loads(line) for line in lines]


def _dashboards(out: Path) -> list[dict[str, Any]]:
    files = sorted((out / "batches" / NAME).iterdir())
    return [f for file in files for f in json.loads(file.read_bytes())["features"]]


# The published schema ----------------------------------------------------------------------------

# jbloomAus/SAEDashboard db4839a, sae_dashboard/neuronpedia/neuronpedia_dashboard.py: `to_dict`
# writes all of these, and neuronpedia_export.py asks for all of them.
BATCH = {
    "model_id": "str", "layer": "int", "sae_set": "str", "sae_id_suffix": "str?",
    "features": "list",
}  # fmt: skip
DASHBOARD = {
    "feature_index": "int",
    "neuron_alignment_indices": "[int]", "neuron_alignment_values": "[float]",
    "neuron_alignment_l1": "[float]",
    "correlated_neurons_indices": "[int]", "correlated_neurons_l1": "[float]",
    "correlated_neurons_pearson": "[float]",
    "correlated_features_indices": "[int]", "correlated_features_l1": "[float]",
    "correlated_features_pearson": "[float]",
    "neg_str": "[str]", "neg_values": "[float]", "pos_str": "[str]", "pos_values": "[float]",
    "frac_nonzero": "float",
    "freq_hist_data_bar_values": "[float]", "freq_hist_data_bar_heights": "[int]",
    "logits_hist_data_bar_heights": "[int]", "logits_hist_data_bar_values": "[float]",
    "n_prompts_total": "int", "n_tokens_in_prompt": "int", "dataset": "str",
    "decoder_weights_dist": "[float]", "activations": "list", "vector": "[float]",
}  # fmt: skip
CONTEXT = {
    "bin_min": "float", "bin_max": "float", "bin_contains": "float",
    "tokens": "[str]", "values": "[float]", "qualifying_token_index": "int",
}  # fmt: skip

# hijohnnylin/neuronpedia ebb8426, apps/webapp/prisma/schema.prisma, without relations, umap and
# inference: name, kind, and * for what has neither a default in the database nor `?`.
RELEASE = """
    name str*, visibility str, isNewUi bool, featured bool, description str*, descriptionShort str?,
    urls [str], creatorEmail str?, creatorName str*, creatorNameShort str?, creatorId str*,
    defaultSourceSetName str?, defaultSourceId str?, defaultUmapSourceIds [str], createdAt str
"""
MODEL = """
    id str*, displayNameShort str, displayName str, creatorId str*, tlensId str?, dimension int?,
    thinking bool, visibility str, defaultSourceSetName str?, defaultSourceId str?, instruct bool,
    inferenceEnabled bool, layers int*, neuronsPerLayer int*, createdAt str, owner str*,
    updatedAt str, website str?
"""
SOURCE_SET = """
    modelId str*, name str*, hasDashboards bool, allowInferenceSearch bool, visibility str,
    description str*, type str, creatorName str*, urls [str], creatorEmail str?, creatorId str*,
    releaseName str?, defaultOfModelId str?, defaultRange int, defaultShowBreaks bool,
    showDfa bool, showCorrelated bool, showHeadAttribution bool, showUmap bool, createdAt str
"""
SOURCE = """
    id str*, modelId str*, hasDashboards bool, inferenceEnabled bool, saelensRelease str?,
    saelensSaeId str?, hfRepoId str?, hfFolderId str?, visibility str, setName str*,
    creatorId str*, num_prompts int?, num_tokens_in_prompt int?, dataset str?, notes str?,
    createdAt str
"""
NEURON = """
    modelId str*, layer str*, index str*, sourceSetName str?, creatorId str?, createdAt str,
    maxActApprox float?, hasVector bool, vector [float], vectorLabel str?,
    vectorDefaultSteerStrength float?, hookName str?, topkCosSimIndices [int],
    topkCosSimValues [float], neuron_alignment_indices [int], neuron_alignment_values [float],
    neuron_alignment_l1 [float], correlated_neurons_indices [int],
    correlated_neurons_pearson [float], correlated_neurons_l1 [float],
    correlated_features_indices [int], correlated_features_pearson [float],
    correlated_features_l1 [float], neg_str [str], neg_values [float], pos_str [str],
    pos_values [float], frac_nonzero float, freq_hist_data_bar_heights [float],
    freq_hist_data_bar_values [float], logits_hist_data_bar_heights [float],
    logits_hist_data_bar_values [float], decoder_weights_dist [float]
"""
ACTIVATION = """
    id str*, tokens [str], dataIndex str?, index str*, layer str*, modelId str*, dataSource str?,
    maxValue float*, maxValueTokenIndex int*, minValue float*, values [float], dfaValues [float],
    dfaTargetIndex int?, dfaMaxValue float?, creatorId str*, createdAt str, lossValues [float],
    logitContributions str?, binMin float?, binMax float?, binContains float?,
    qualifyingTokenIndex int?
"""
KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list}


def _table(columns: str) -> dict[str, str]:
    return dict(column.strip().split(" ") for column in columns.split(","))


def _check(row: dict[str, Any], schema: dict[str, str]) -> None:
    assert row.keys() <= schema.keys(), row.keys() - schema.keys()
    for field, value in row.items():
        kind = schema[field].rstrip("*")
        if value is None:
            assert kind.endswith("?"), field
            continue
        plain = KINDS[kind.strip("[]?")]
        assert isinstance(value, list) == (kind.startswith("[") or kind == "list"), field
        for one in value if kind.startswith("[") else [value]:
            assert isinstance(one, plain), (field, one)
            assert isinstance(one, bool) == (plain is bool), (field, one)


@pytest.mark.parametrize("model", [Table(), None], ids=["with-model", "without"])
def test_every_field_is_of_the_published_schema(
    features: sae.features.Features, tmp_path: Path, model: Table | None
) -> None:
    folder = _export(features, tmp_path, model)
    (file,) = (tmp_path / "batches" / NAME).iterdir()
    batch = json.loads(file.read_bytes())
    _check(batch, BATCH)
    assert batch.keys() == BATCH.keys()
    for dashboard in batch["features"]:
        _check(dashboard, DASHBOARD)
        assert dashboard.keys() == DASHBOARD.keys()
        for context in dashboard["activations"]:
            _check(context, CONTEXT)
            assert context.keys() == CONTEXT.keys()
    tables = {"release": RELEASE, "model": MODEL, "sourceset": SOURCE_SET, "source": SOURCE}
    found = {t: [json.loads(line) for line in _lines(folder / f"{t}.jsonl")] for t in tables}
    assert all(len(rows) == 1 for rows in found.values())
    found |= {kind: _rows(folder / kind) for kind in ("features", "activations")}
    for table, columns in (tables | {"features": NEURON, "activations": ACTIVATION}).items():
        schema = _table(columns)
        for row in found[table]:
            _check(row, schema)
            assert {field for field, kind in schema.items() if kind.endswith("*")} <= row.keys()
            assert row.keys() == found[table][0].keys()  # the first line names the columns


def _lines(path: Path) -> list[str]:
    text = path.read_text()
    assert text.endswith("\n")
    return text.splitlines()


# By hand -----------------------------------------------------------------------------------------


def test_a_dashboard_is_what_one_reckons_by_hand(
    features: sae.features.Features, tmp_path: Path
) -> None:
    """Its values are 2, 4, - in the first block, 8, 4, 2 in the second."""
    _export(features, tmp_path, Table())
    dashboard = _dashboards(tmp_path)[0]
    contexts = dashboard.pop("activations")
    heights, middles = (dashboard.pop(f"logits_hist_data_bar_{n}") for n in ("heights", "values"))
    assert dashboard == {
        "feature_index": 0,
        "neuron_alignment_indices": [0, 1],
        "neuron_alignment_values": [3, -1],
        "neuron_alignment_l1": [0.75, 0.25],
        **{f"correlated_{of}_{n}": [] for of in ("neurons", "features") for n in CORRELATED},
        # The decoder row [3, -1] gives the five tokens the logits 3, -1, -3, 6, -2.
        "neg_str": [WORDS[2], WORDS[4]],
        "neg_values": [-3, -2],
        "pos_str": [WORDS[3], WORDS[0]],
        "pos_values": [6, 3],
        "frac_nonzero": 0.83333,
        "freq_hist_data_bar_heights": [0, 2, 2, 1],
        "freq_hist_data_bar_values": [1, 3, 5, 7],
        "n_prompts_total": 2,
        "n_tokens_in_prompt": 4,
        "dataset": "a text",
        "decoder_weights_dist": [],
        "vector": [3, -1],
    }
    assert {i: n for i, n in enumerate(heights) if n} == {0: 1, 5: 1, 11: 1, 33: 1, 49: 1}
    assert (middles[0], middles[1], middles[49]) == pytest.approx((-2.91, -2.73, 5.91))
    of_top, upper, lower = (-1, 8, -1), (4, 8, 0.5), (0, 4, 0.5)  # half of the tokens in each
    assert [tuple(context.values()) for context in contexts] == [
        (*of_top, [WORDS[0], WORDS[4], WORDS[2]], [0, 8, 4], 1),
        (*of_top, [WORDS[1], WORDS[2], WORDS[3]], [2, 4, 0], 1),
        (*upper, [WORDS[1], WORDS[2], WORDS[3]], [2, 4, 0], 1),
        (*lower, [WORDS[0], WORDS[1], WORDS[2]], [0, 2, 4], 1),
    ]


CORRELATED = ("indices", "pearson", "l1")


def test_the_rows_of_the_tables_say_the_same(
    features: sae.features.Features, tmp_path: Path
) -> None:
    folder = _export(features, tmp_path, Table())
    place = {"modelId": "gpt2-small", "layer": "4-res-mine__k-8"}
    neurons, contexts = _rows(folder / "features"), _rows(folder / "activations")
    assert (
        neurons[0].items()
        >= {
            **place,
            "index": "0",
            "sourceSetName": "res-mine",
            "maxActApprox": 8,
            "hasVector": True,
            "vectorDefaultSteerStrength": 8,
            "hookName": SITE,
            "topkCosSimIndices": [0, 2],
            "topkCosSimValues": [1, pytest.approx(0.44721)],
        }.items()
    )
    for row, dashboard in zip(neurons, _dashboards(tmp_path), strict=True):
        assert all(row[field] == dashboard[field] for field in row.keys() & dashboard.keys())
        its = [context for context in contexts if context["index"] == row["index"]]
        assert row["maxActApprox"] == max((c["maxValue"] for c in its), default=0)
        for context, shown in zip(its, dashboard["activations"], strict=True):
            assert context.items() >= {**place, "binMax": shown["bin_max"]}.items()
            assert context["tokens"] == shown["tokens"] and context["values"] == shown["values"]
            assert context["values"][context["maxValueTokenIndex"]] == context["maxValue"]
            assert context["minValue"] == min(shown["values"])
    assert len({context["id"] for context in contexts}) == len(contexts) > 4


def test_the_tables_refer_to_each_other(features: sae.features.Features, tmp_path: Path) -> None:
    folder = _export(features, tmp_path, Table())
    assert folder == tmp_path / "exports" / NAME
    (release, model, of_set, source) = (
        json.loads((folder / f"{table}.jsonl").read_text())
        for table in ("release", "model", "sourceset", "source")
    )
    assert (model["id"], model["layers"]) == ("gpt2-small", 12)
    assert of_set["modelId"] == source["modelId"] == model["id"]
    assert of_set["releaseName"] == release["name"]
    assert (source["setName"], of_set["name"]) == ("res-mine", "res-mine")
    assert source["id"] == "4-res-mine__k-8"
    assert (source["num_prompts"], source["dataset"]) == (2, "a text")
    batch = json.loads((tmp_path / "batches" / NAME / "batch-0.json").read_text())
    assert [batch[field] for field in ("model_id", "layer", "sae_set", "sae_id_suffix")] == [
        *("gpt2-small", 4, "res-mine", "k-8")
    ]


def test_a_feature_that_is_never_active_is_there_and_shows_as_dead(
    features: sae.features.Features, tmp_path: Path
) -> None:
    """The page marks as dead a feature with a `maxActApprox` of 0 and no vector."""
    folder = _export(features, tmp_path, Table())
    dead = _dashboards(tmp_path)[2]
    assert dead["frac_nonzero"] == 0 and dead["pos_values"] == [2, 2] and dead["vector"] == []
    assert dead["freq_hist_data_bar_heights"] == dead["freq_hist_data_bar_values"] == []
    assert dead["activations"] == []
    row = _rows(folder / "features")[2]
    assert row["index"] == "2" and row["maxActApprox"] == 0 and not row["hasVector"]
    assert row["vector"] == [] and row["vectorDefaultSteerStrength"] == 10
    assert {context["index"] for context in _rows(folder / "activations")} == {"0", "1"}


def test_histograms_of_logits_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 5, generator=generator)
    rows[3] = 0
    unembedding = torch.randn(5, 200, generator=generator)
    monkeypatch.setattr("sae.features.weights.NUMBERS_AT_ONCE", 1600)  # two rows at a time
    counts, ends = logit_histograms(rows, lambda x: x @ unembedding, 7)
    for i, logits in enumerate((rows @ unembedding).double().numpy()):
        low, high = logits.min(), logits.max()
        assert ends[i].tolist() == pytest.approx([low, high])
        if i != 3:
            assert counts[i].tolist() == np.histogram(logits, 7, (low, high))[0].tolist()
    assert counts[3].sum() == 200


# Tokens ------------------------------------------------------------------------------------------


def test_tokens_are_pieces_and_survive_whatever_is_in_them(
    features: sae.features.Features, tmp_path: Path
) -> None:
    folder = _export(features, tmp_path, Table())
    shown = {token for row in _rows(folder / "activations") for token in row["tokens"]}
    assert shown == set(WORDS)
    for file in tmp_path.rglob("batch-*"):
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        assert content.isascii() and b"\x00" not in content
    folder = _export(features, tmp_path / "without")
    shown = {token for row in _rows(folder / "activations") for token in row["tokens"]}
    assert shown == {f"text {i}" for i in range(5)}


def test_pieces_of_a_byte_level_tokenizer_read_as_in_neuronpedia(
    features: sae.features.Features, tiny: LanguageModel
) -> None:
    tokenizer = tiny.tokenizer
    words = pieces_of(features, tokenizer)
    for text in (" the", "\n", "ing", '"'):
        (token,) = tokenizer.encode(text)
        assert words([token]) == [text]
    (token,) = tokenizer.convert_tokens_to_ids(["\u00c3"])  # a byte, and no letter by itself
    assert words([token]) == ["\u00c3"]
    assert words([len(tokenizer)]) == [OUT_OF_RANGE]


# The files ---------------------------------------------------------------------------------------


def test_features_are_written_some_at_a_time_to_the_same_bytes_each_time(
    features: sae.features.Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _export(features, tmp_path / "whole", Table())
    monkeypatch.setattr("sae.features.neuronpedia.export.FEATURES_IN_FILE", 2)
    folder = _export(features, tmp_path / "parts", Table())
    names = [path.name for path in sorted((folder / "features").iterdir())]
    assert names == ["batch-0.jsonl.gz", "batch-1.jsonl.gz"]
    # Nothing is active in the second part, and the import cannot read a file without a line.
    assert [path.name for path in (folder / "activations").iterdir()] == names[:1]
    for kind in ("features", "activations"):
        assert _rows(folder / kind) == _rows(whole / kind)
    assert _dashboards(tmp_path / "parts") == _dashboards(tmp_path / "whole")
    monkeypatch.undo()
    _export(features, tmp_path / "parts", Table())
    again, first = (
        {p.relative_to(tmp_path / of): p.read_bytes() for p in (tmp_path / of).rglob("*.*") if
         p.is_file()}
        for of in ("parts", "whole")
    )  # fmt: skip
    assert again == first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dictionary_of_half_precision_gives_the_same(
    features: sae.features.Features, tmp_path: Path, dtype: torch.dtype
) -> None:
    _export(features, tmp_path / "single")
    its = _dictionary().to(dtype)
    to_neuronpedia(features, its, NAME, tmp_path / "half", progress=False)
    assert _dashboards(tmp_path / "half") == _dashboards(tmp_path / "single")


def test_features_of_another_dictionary_are_refused(
    features: sae.features.Features, tmp_path: Path
) -> None:
    other, wider = _dictionary(), ReLUConfig(d_sae=4).build(2)
    other.W_dec.data[1] *= 2
    for its in (other, wider):
        with pytest.raises(sae.InputError, match="holds the features of another dictionary"):
            to_neuronpedia(features, its, NAME, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


# Names, and the command --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small/4-res-mine", ("gpt2-small", "4-res-mine", 4, "res-mine", None)),
        ("llama3-8b/12-res_32k__k-64", ("llama3-8b", "12-res_32k__k-64", 12, "res_32k", "k-64")),
        ("pythia-70m/e-res-sm", ("pythia-70m", "e-res-sm", 0, "res-sm", None)),
    ],
)  # fmt: skip
def test_a_name_is_taken_apart_as_neuronpedia_does(name: str, expected: tuple[Any, ...]) -> None:
    assert SourceName.parse(name) == SourceName(*expected)


@pytest.mark.parametrize(
    "name",
    [
        *("", "gpt2-small", "gpt2-small/4", "gpt2-small/res-mine", "a/4-", "a/4-x__", "a/4-__x"),
        *("A/4-x", "a/04-x", "a/4-x ", "a/4-x/../..", "../4-x", "a/4-..", "a/4-\u0661", "a b/4-x"),
    ],
)
def test_a_name_of_another_form_is_one_line_before_any_work(name: str) -> None:
    done = called(features_script.main, "no/such/run", "--neuronpedia", name)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "is no name of a source on Neuronpedia: give MODEL_ID/SOURCE" in done.err


def test_the_command_writes_what_is_collected_and_collects_nothing_twice(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    its = TopKConfig(d_sae=32, k=4).build(tiny.width(RESID_MID))
    its.provenance = sae.Provenance(model_name="tiny", hook_name=RESID_MID, context_size=64)
    sae.save(its, tmp_path / "dictionary")
    out, text = tmp_path / "features", tmp_path / "text.txt"
    text.write_text("One paragraph of text, a [bold] one.\n\n" * 500)
    folder = out / "neuronpedia" / "exports" / "tiny" / "2-mine"
    flags = ("--n-tokens", "1000", "--dataset", text, "--out", out, "--neuronpedia", "tiny/2-mine")
    written = set()
    for _ in range(2):
        done = called(features_script.main, tmp_path / "dictionary", *flags)
        assert done.code == 0, done.err
        written.add((out / "features.json").stat().st_mtime_ns)
        assert f"neuronpedia  {folder}" in done.out
    assert len(written) == 1 and len(_rows(folder / "features")) == 32
