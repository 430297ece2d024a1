"""The documentation does what it says: its snippets run, and nothing that exists is left out."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import reference
from in_process import called

import activation_cache
import sae
from activation_cache.model.sites import SITES
from sae.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "index.md"


def _in_reading_order() -> list[Path]:
    """README, the pages in the order of the index, and the others."""
    linked = [INDEX.parent / page for page in re.findall(r"\]\(([^)#:]+\.md)\)", INDEX.read_text())]
    others = [ROOT / "CONTRIBUTING.md", INDEX, *sorted((ROOT / "docs").rglob("*.md"))]
    return list(dict.fromkeys([ROOT / "README.md", *linked, *others]))


PAGES = _in_reading_order()
TEXT = "\n".join(page.read_text() for page in PAGES)


def _blocks(language: str) -> list[tuple[Path, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page, block) for page in PAGES for block in pattern.findall(page.read_text())]


def _name(page: Path) -> str:
    return page.name


LONG = "from-toy-model-to-dictionary.md"  # what it calls, tests/toy has at smaller sizes


def _pages_with_snippets() -> list[Any]:
    pages = dict.fromkeys(page for page, _ in _blocks("python"))
    return [pytest.param(p, marks=[pytest.mark.slow] * (p.name == LONG)) for p in pages]


@pytest.mark.parametrize("page", _pages_with_snippets(), ids=_name)
def test_every_python_snippet_runs_after_those_above_it_on_its_page(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in [code for its_page, code in _blocks("python") if its_page == page]:
        before = set(names)
        exec(compile(code, str(page), "exec"), names)
        assert names.keys() > before | {"__builtins__"}, "it defines nothing: what does it show?"


TESTED_ELSEWHERE = {
    "featureloom papers toy-models all --quick",  # tests/toy/test_toy_script
    "featureloom features runs/first --serve",  # tests/features/test_serve
    "featureloom evaluate runs/first --full",  # tests/test_full_evaluation
}
PROGRAMS = {
    "python": [sys.executable],
    "featureloom": [sys.executable, "-m", "featureloom"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}


def _commands() -> dict[Path, list[str]]:
    """The commands of each page, without those of earlier pages; `make` is what runs them."""
    found: dict[Path, list[str]] = {}
    seen = set(TESTED_ELSEWHERE)
    for page, block in _blocks("bash"):
        lines = [line for line in block.splitlines() if line and not line.startswith("make ")]
        found.setdefault(page, []).extend(line for line in lines if line not in seen)
        seen |= set(lines)
    return {page: commands for page, commands in found.items() if commands}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the scripts, and what the pages before have made."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", _commands(), ids=_name)
def test_every_command_of_a_page_runs_as_written_after_the_pages_before(
    page: Path, workplace: Path
) -> None:
    for command in _commands()[page]:
        program, *arguments = shlex.split(command, comments=True)
        done = subprocess.run(
            [*PROGRAMS[program], *arguments],
            cwd=workplace,
            env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_documentation_shows_commands() -> None:
    assert sum(len(commands) for commands in _commands().values()) > 15


def test_every_page_is_in_the_index() -> None:
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions"}
    text = INDEX.read_text()
    assert [
        page for page in pages - {INDEX} if f"({page.relative_to(INDEX.parent)})" not in text
    ] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tables_of_settings_architectures_and_metrics_are_those_of_the_code(
    tmp_path: Path,
) -> None:
    """And README's table beside the peers is that of the benchmarks page."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert called(reference.main, "--docs", tmp_path / "docs").code == 0
    for page in (
        "README.md",
        *(f"docs/{page}.md" for page in ("settings", "training", "recipes", "metrics")),
    ):
        again = (tmp_path / page).read_text()
        assert again == (ROOT / page).read_text(), f"python scripts/reference.py changes {page}"


@pytest.mark.slow
def test_the_table_of_models_is_what_the_command_makes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    assert called(reference.main, "--docs", tmp_path / "docs", "--models").code == 0
    again = (tmp_path / "docs" / "models.md").read_text()
    assert again == (ROOT / "docs" / "models.md").read_text()


def test_a_table_that_is_older_than_the_benchmarks_page_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    page = tmp_path / "docs" / "benchmarks.md"
    large = page.read_text().split("<!-- peers-synthetic -->")[1]
    before = re.search(r"\| ([\d,]+) \| 100\.0% .* Featureloom", large)
    assert before is not None
    page.write_text(page.read_text().replace(before[1], "77,777"))
    called(reference.main, "--docs", tmp_path / "docs")
    assert "| 77,777 |" in (tmp_path / "README.md").read_text()


def test_every_site_and_architecture_is_documented() -> None:
    for name in (*SITES, *ARCHITECTURES):
        assert f"`{name}`" in TEXT, name


def test_every_script_is_documented() -> None:
    for script in (ROOT / "scripts").glob("*.py"):
        assert script.stem in TEXT, script.name


def test_the_public_names_are_those_that_the_packages_promise() -> None:
    """Notebooks rely on them: add to the lists, do not take away."""
    assert {"SAE", "load", "save", "train", "fit", "TrainConfig", "evaluate", "EvalReport"} <= {
        *sae.__all__
    }
    assert {"load_model", "harvest", "HarvestConfig"} <= {*activation_cache.__all__}
    for package in (sae, activation_cache):
        for name in package.__all__:
            assert getattr(package, name).__doc__ or name == "AnySAEConfig", name
