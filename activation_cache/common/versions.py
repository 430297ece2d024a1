"""Which versions of the libraries that results depend on are installed."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("featureloom", "torch", "transformers", "transformer_lens", "datasets", "wandb")


def library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
