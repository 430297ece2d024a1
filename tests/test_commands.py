"""`featureloom`, as somebody meets it who has installed the wheel: overview, help, completion."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import featureloom
import pytest
from in_process import called

from activation_cache.model.sites import SITES
from sae.commands import completion, train

ROOT = Path(__file__).parents[1]


def typed(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """What a process of its own answers."""
    command = [sys.executable, "-m", "featureloom", *arguments]
    where = {"PYTHONPATH": str(ROOT / "scripts")}
    kept = {"env": os.environ | where, "capture_output": True, "text": True, **options}
    return subprocess.run(command, check=False, **kept)  # type: ignore[call-overload]


def test_the_overview_names_every_command_and_imports_no_torch() -> None:
    program = "import sys, featureloom; featureloom.main(); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
    )
    assert done.returncode == 0, done.stderr
    for name in featureloom.COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "error: unknown command 'trian': did you mean train?\n"),
        (("papers", "toy-model"), "error: unknown paper 'toy-model': did you mean toy-models?\n"),
    ],
)
def test_a_misspelled_command_is_told_the_one_that_is_meant(
    arguments: tuple[str, ...], message: str
) -> None:
    done = typed(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--layer", "--hook-name"),
        ("--expansion-factor", "--d-sae"),
        ("--training-tokens", "--n-tokens"),
        ("--l1_coef", "--l1-coeff"),
        ("--learning-rate=3e-4", "--lr"),
    ],
)
def test_a_flag_of_another_project_or_a_misspelled_one_is_told_ours(flag: str, meant: str) -> None:
    done = called(train.main, flag, "8")
    assert done.code == 2
    assert (
        done.err
        == f"error: unknown {flag.split('=')[0]}: did you mean {meant}? --help shows all flags\n"
    )


def test_importing_featureloom_says_what_to_import() -> None:
    with pytest.raises(AttributeError, match=r"import sae for dictionaries.*activation_cache"):
        _ = featureloom.train


def test_the_scripts_of_a_checkout_are_the_commands() -> None:
    for name in featureloom.COMMANDS.keys() - {"papers", "completion"}:
        assert f'main("{name}")' in (ROOT / "scripts" / f"{name}.py").read_text()
    for name in featureloom.PAPERS:
        script = ROOT / "scripts" / "papers" / f"{name.replace('-', '_')}.py"
        assert f'main("papers", "{name}")' in script.read_text()


def test_help_has_every_flag_in_one_line_of_its_group_with_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    lines = called(train.main, "--help").out.splitlines()
    flags = [line for line in lines if line.startswith("  --")]
    assert len(flags) > 50
    assert all(len(line) <= 110 for line in lines)
    wrapped = [line for line in lines if line.startswith(" " * 34)]
    assert len(wrapped) < 0.1 * len(flags), wrapped
    assert lines[lines.index("training:") + 1].startswith("  --n-tokens TOKENS  ")
    (k,) = (line for line in flags if line.startswith("  --k N "))
    assert k.endswith("Active features per token (topk, batch_topk, matryoshka: 32)")
    (minutes,) = (line for line in flags if "--checkpoint-minutes MINUTES" in line)
    assert minutes.endswith("(10.0)")


def test_help_names_every_site() -> None:
    shown = called(train.main, "--help").out
    assert all(re.search(rf"\b{site}\b", shown) for site in SITES)


def test_help_may_be_cut_off_by_head() -> None:
    done = subprocess.run(
        f"{sys.executable} -m featureloom train --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
    )
    assert done.stderr == "" and done.stdout.startswith("Train a sparse dictionary")


# Completion --------------------------------------------------------------------------------------

COMPLETED = [
    ("featureloom tr", "train"),
    ("featureloom train --archi", "--architecture"),
    ("featureloom train --architecture jum", "jumprelu"),
    ("featureloom papers toy-models geo", "geometry"),
    ("featureloom convert --to sp", "sparsify"),
]

BASH = """
source "$1"
COMP_WORDS=($2)
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_shtab_featureloom
echo "${COMPREPLY[*]}"
"""

ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; echo RE''ADY"
zpty -r shell out "*READY*"
zpty -n -w shell "$2"$'\t'
zpty -r shell out "*$3*"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the completion of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell, file in (("bash", "featureloom"), ("zsh", "_featureloom")):
        done = called(completion.main, shell)
        assert done.code == 0, done.err
        (folder / file).write_text(done.out)
    return folder


@pytest.mark.parametrize(("line", "completed"), COMPLETED)
def test_bash_completes_commands_flags_and_their_values(
    scripts: Path, line: str, completed: str
) -> None:
    shell = ["bash", "-c", BASH, "bash", str(scripts / "featureloom"), line]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [completed]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("line", "completed"), COMPLETED)
def test_zsh_does_too(scripts: Path, line: str, completed: str) -> None:
    shell = ["zsh", "-c", ZSH, "zsh", str(scripts), line, f"{line.rsplit(' ', 1)[0]} {completed}"]
    subprocess.run(shell, capture_output=True, timeout=30, check=True)


# The wheel ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_wheel_alone_does_the_embedded_job(tmp_path: Path) -> None:
    """Its dependencies are those of the tests' environment, and the checkout is not seen."""
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheel"), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = (tmp_path / "wheel").glob("featureloom-*.whl")
    only = tmp_path / "only"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", only, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(only)}
    flags = ["--n-tokens", "20k", "--d-sae", "256", "--eval-tokens", "4096", "--wandb", "off"]
    done = subprocess.run(
        [only / "bin" / "featureloom", "train", *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "run-1" / "report.html").is_file()
    where = "import featureloom, sae, activation_cache as a; print(featureloom, sae, a)"
    shown = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert shown.stdout.count(str(only)) == 3, shown
