"""The virtual environments of other projects, built where they are missing."""

import json
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from activation_cache.common.errors import InputError

RECIPES = Path(__file__).parent / "environments.toml"
ENVIRONMENTS = Path.home() / ".cache" / "featureloom" / "peers"
"""Where they are, unless a flag says otherwise."""


def environment(peer: str, folder: Path) -> Path:
    """The Python of the peer's own virtual environment, which is built where it is missing."""
    recipe = tomllib.loads(RECIPES.read_text())[peer]
    home = folder / peer
    python, made = home / "bin" / "python", home / "requirements.json"
    if made.exists() and json.loads(made.read_text()) == recipe:
        return python
    print(f"building the environment of {peer} in {home}", file=sys.stderr)
    venv.create(home, with_pip=True, clear=True)
    _install(peer, python, recipe["requirements"])
    if recipe["without_dependencies"]:
        _install(peer, python, ["--no-deps", *recipe["without_dependencies"]])
    made.write_text(json.dumps(recipe))
    return python


def _install(peer: str, python: Path, what: list[str]) -> None:
    pip = [python, "-m", "pip", "install", "-q", *what]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"cannot install {peer}: {done.stderr.strip().splitlines()[-1]}")
