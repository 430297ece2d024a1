"""Prompts in a model with a dictionary, against attaching it by hand."""

import pytest
import torch
from small_models import RESID_MID

import sae
from activation_cache import LanguageModel
from sae.architectures import TopKConfig
from sae.runs.prompts import N_CONTINUED, Prompts

TEXT = "Returns a list of"


@pytest.fixture(scope="module")
def dictionary(tiny: LanguageModel) -> sae.SAE:
    torch.manual_seed(0)
    made = TopKConfig(d_sae=64, k=8).build(tiny.width(RESID_MID))
    made.provenance = sae.Provenance(hook_name=RESID_MID)
    return made.requires_grad_(False)


@torch.no_grad()
def test_an_answer_is_what_attaching_gives(tiny: LanguageModel, dictionary: sae.SAE) -> None:
    found = Prompts(tiny, dictionary).answer({"text": TEXT})
    ids = [tiny.tokenizer.bos_token_id, *tiny.tokenizer(TEXT)["input_ids"]]
    assert found["tokens"] == ids and found["changed"] is None
    tokens = torch.tensor([ids])
    with sae.attach(tiny, dictionary) as inside:
        logits = tiny.logits(tokens)
        acts = inside.features(RESID_MID)[0]
    assert found["active"][0] == []  # position 0
    for at, its in enumerate(found["active"][1:], start=1):
        values, features = acts[at].topk(8)
        assert [i for i, _ in its] == features.tolist()
        assert [value for _, value in its] == pytest.approx(values.tolist(), rel=1e-3)
    for at, following in enumerate(found["next"]):
        best = logits[0, at].softmax(-1).topk(len(following))
        assert [i for i, _ in following] == best.indices.tolist()
        assert [p for _, p in following] == pytest.approx(best.values.tolist(), abs=1e-5)
    for _ in found["continued"]:
        tokens = torch.cat([tokens, tiny.logits(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert found["continued"] == tokens[0, len(ids) :].tolist()
    assert 0 < len(found["continued"]) <= N_CONTINUED


@torch.no_grad()
def test_changed_features_change_what_comes_next(tiny: LanguageModel, dictionary: sae.SAE) -> None:
    prompts = Prompts(tiny, dictionary)
    plain = prompts.answer({"text": TEXT})
    feature = plain["active"][-1][0][0]
    edits = [
        {"feature": feature, "kind": "scale", "value": 0},
        {"feature": 5, "kind": "set", "value": 40.0},
    ]
    found = prompts.answer({"text": TEXT, "edits": edits})
    assert found | {"changed": None} == plain
    with sae.attach(tiny, dictionary) as inside:
        inside.ablate(RESID_MID, feature, slice(1, None))
        inside.set(RESID_MID, 5, 40.0, slice(1, None))
        logits = tiny.logits(torch.tensor([plain["tokens"]]))
    token, p = found["changed"]["next"][-1][0]
    assert token == logits[0, -1].argmax()
    assert p == pytest.approx(logits[0, -1].softmax(-1).max().item(), abs=1e-5)
    assert found["changed"]["next"][-1] != plain["next"][-1]
    assert found["changed"]["next"][0] == plain["next"][0]  # position 0 is left as it is
    assert prompts.answer({"text": TEXT}) == plain  # nothing stays


def _edited(**edit: object) -> dict:
    return {"text": TEXT, "edits": [edit]}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"text": ""}, "the prompt is empty: type some text"),
        ({"text": "word " * 2000}, r"the prompt has \d+ tokens: give up to \d+"),
        ({}, "text"),
        (_edited(feature=64, kind="set", value=1.0), "no feature 64: give 0 to 63"),
        (_edited(feature=1, kind="drop", value=1.0), "drop"),
    ],
)
def test_questions_that_make_no_sense_are_one_line(
    tiny: LanguageModel, dictionary: sae.SAE, asked: dict, says: str
) -> None:
    with pytest.raises(sae.InputError, match=says):
        Prompts(tiny, dictionary).answer(asked)


def test_a_dictionary_that_does_not_fit_is_refused_at_once(tiny: LanguageModel) -> None:
    made = TopKConfig(d_sae=8, k=2).build(7)
    made.provenance = sae.Provenance(hook_name=RESID_MID)
    with pytest.raises(sae.InputError, match="7"):
        Prompts(tiny, made)
