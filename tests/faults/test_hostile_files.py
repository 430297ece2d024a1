"""Files that somebody made to do harm: they cost no memory, lead nowhere, and run nothing."""

import io
import json
import math
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from workshop import Workshop, header_of, refusal, safetensors_of

import sae
from activation_cache import ActivationCache, LanguageModel
from activation_cache.common.files import write_file
from sae.architectures import ARCHITECTURES
from sae.evaluation import evaluate_reconstruction
from sae.interop.layouts.native import CONFIG_FILE, WEIGHTS_FILE
from sae.pages.run_report import write_report
from sae.runs.sinks.summary import summary_table

pytestmark = pytest.mark.usefixtures("as_installed", "no_more_memory")

# Sizes -------------------------------------------------------------------------------------------


HUGE: dict[str, Callable[[Workshop], object]] = {
    "of 10**12 features": lambda shop: shop.settings(d_sae=10**12),
    "with a header of 10**15 bytes": lambda shop: shop.weights(
        lambda _: safetensors_of(b"{}", b"", 10**15)
    ),
    "with a tensor of 2**40 rows": lambda shop: shop.weights(
        lambda _: safetensors_of(header_of(W_dec=("F32", [2**40, 192], [0, 2**40 * 768])))
    ),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("prepare", HUGE.values(), ids=HUGE)
def test_a_dictionary_that_declares_more_than_its_file_holds_costs_nothing(
    shop: Workshop, prepare: Callable[[Workshop], object]
) -> None:
    prepare(shop)
    assert "d" in refusal(lambda: sae.load("d"))


@pytest.mark.parametrize(("name", "value"), [("gated", math.nan), ("jumprelu", math.inf)])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, name: str, value: float
) -> None:
    sae.save(ARCHITECTURES[name](d_sae=64).build(4), tmp_path)
    valid = load_file(tmp_path / WEIGHTS_FILE)
    for tensor in valid:
        weights = {of: its.clone() for of, its in valid.items()}
        weights[tensor].view(-1)[-1] = value
        save_file(weights, tmp_path / WEIGHTS_FILE)
        assert f"{tensor} in {tmp_path / WEIGHTS_FILE} holds NaN or Inf" in refusal(
            lambda: sae.load(tmp_path)
        )


# Places ------------------------------------------------------------------------------------------


def test_saving_does_not_write_through_a_link(shop: Workshop) -> None:
    mine = shop.write("mine", "mine")
    folder = shop.dictionary()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (folder / f"{name}.part").symlink_to(mine)
        shop.exchange(f"d/{name}", lambda path: path.symlink_to(mine))
    sae.save(sae.architectures.ReLUConfig(d_sae=8).build(4), folder)
    assert mine.read_text() == "mine"
    assert sae.load(folder).d_in == 4


def test_a_dictionary_that_lies_as_the_hub_keeps_it_is_read_through_its_links(
    shop: Workshop,
) -> None:
    folder = shop.dictionary()
    (shop.folder / "blobs").mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (folder / name).rename(shop.folder / "blobs" / name)
        (folder / name).symlink_to(shop.folder / "blobs" / name)
    assert sae.load(folder).d_sae == 8


def test_what_a_link_leads_to_is_not_shown(shop: Workshop) -> None:
    secret = shop.write("secret", "the-secret")
    shop.dictionary()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shop.exchange(f"d/{name}", lambda path: path.symlink_to(secret))
        assert "the-secret" not in refusal(lambda: sae.load("d"))


def test_a_harvest_deletes_and_empties_nothing_behind_a_link(
    shop: Workshop, tiny: LanguageModel
) -> None:
    """A cache from elsewhere may hold links to folders, and to files in the place of its own."""
    shop.cache()
    leftover, mine = shop.write("elsewhere/notes.tmp", "mine"), shop.write("mine", "mine")
    (shop.folder / "c" / "link").symlink_to(shop.folder / "elsewhere")
    cfg = ActivationCache.open("c").config
    lock = shop.folder / "c" / "writer.lock"
    for target in (mine, shop.write("empty", ""), shop.folder / "nowhere"):
        lock.symlink_to(target)
        refusal(lambda: ActivationCache.create("c", tiny, cfg))
        lock.unlink()
    ActivationCache.create("c", tiny, cfg)
    assert leftover.read_text() == mine.read_text() == "mine"
    assert (shop.folder / "empty").read_text() == ""
    assert not (shop.folder / "nowhere").exists()


def test_a_folder_with_the_name_of_an_address_is_a_folder(shop: Workshop) -> None:
    (shop.folder / "a::b").mkdir()
    write_file(Path("a::b") / "file", "mine")
    assert (shop.folder / "a::b" / "file").read_text() == "mine"
    assert not (shop.folder / "a:").exists()


# Pages -------------------------------------------------------------------------------------------

ATTACKS = (
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "{{ 7*7 }}",
)


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def write_run(folder: Path, text: str) -> Mapping[str, Any]:
    """A run whose files hold the text in every place that takes one."""
    everywhere: Any = {text: text, "list": [text], "mapping": {text: text}}
    names = ("model", "hook_name", "architecture", "d_sae", "dataset", "out")
    config = {
        "settings": dict.fromkeys(names, text) | everywhere,
        "versions": everywhere,
        "git_commit": text,
    }
    numbers = {"fvu": 0.5, "ce_clean": 3.0, "ce_zero": 9.0}
    evaluated = {
        "metrics": numbers | everywhere,
        "conventions": dict.fromkeys((*numbers, "density", text), text),
    }
    row = {"n_tokens": 10, "loss": 1.0, text: 2.0}
    contents = {"config.json": config, "eval.json": evaluated, "metrics.jsonl": row}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content) + "\n")
    return contents


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_files_say_is_text_on_the_page_and_nothing_else(tmp_path: Path, attack: str) -> None:
    write_run(tmp_path, "plain")
    plain = _Tags(write_report(tmp_path).read_text())
    write_run(tmp_path, attack)
    page = _Tags(write_report(tmp_path).read_text())
    assert page.found == plain.found
    assert page.attributes == plain.attributes
    assert page.text.count(attack) > 20
    assert "49" not in page.text.replace(attack, "")


def test_names_are_no_markup_in_the_table() -> None:
    dictionary = sae.architectures.ReLUConfig(d_sae=8).build(4)
    report = evaluate_reconstruction(dictionary, [torch.randn(16, 4)])
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(report, "dictionary on [/b]"))
    assert "dictionary on [/b]" in console.file.getvalue()
