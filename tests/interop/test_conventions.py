"""What is said of BOS and of the site: what the files say, and nothing that is only likely."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from faults.foreign import FOREIGN

import sae


@pytest.mark.parametrize("layout", FOREIGN)
def test_bos_is_not_guessed(tmp_path: Path, layout: str) -> None:
    """GPT-2's tokenizer adds none, and some projects prepend it: a guess is wrong for many."""
    metadata = sae.load(FOREIGN[layout].write(tmp_path)).provenance.to_metadata()
    known = True if layout == "hook_z" else None  # which its makers say of all of them
    assert metadata.get("prepend_bos") is known


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_bos_is_what_a_file_says(tmp_path: Path, prepend_bos: bool) -> None:
    its = FOREIGN["saelens"]
    metadata = {**its.config["metadata"], "prepend_bos": prepend_bos}
    replace(its, config={**its.config, "metadata": metadata}).write(tmp_path)
    assert sae.load(tmp_path).provenance.to_metadata()["prepend_bos"] is prepend_bos


def test_of_a_published_folder_more_is_known(tmp_path: Path) -> None:
    published = tmp_path / "gemma-scope-2b-pt-res" / "layer_5" / "width_16k" / "average_l0_68"
    metadata = sae.load(FOREIGN["gemma_scope"].write(published)).provenance.to_metadata()
    known = {"model_name": "google/gemma-2-2b", "hook_name": "blocks.5.hook_resid_post"}
    assert known.items() <= metadata.items() and metadata["prepend_bos"] is True


def test_a_site_that_is_only_likely_is_not_said(tmp_path: Path) -> None:
    """`submodule_name` is a name that its user has chosen."""
    its = FOREIGN["dictionary_learning"]
    trainer = {**its.config["trainer"], "submodule_name": "my favourite layer"}
    its.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**its.config, "trainer": trainer}))
    assert "hook_name" not in sae.load(tmp_path).provenance.to_metadata()
