"""The architectures. The union `AnySAEConfig` is their registry: the command line, the loader, the
pages and the contract tests are all made from it, so a new architecture is one file and one line
here. Another package names its configs under the entry point `featureloom.architectures`."""

from typing import get_args

from activation_cache.common.plugins import Registry
from sae.architectures.batch_topk import BatchTopKConfig
from sae.architectures.gated import GatedConfig
from sae.architectures.jumprelu import JumpReLUConfig
from sae.architectures.matryoshka import MatryoshkaConfig
from sae.architectures.relu import ReLUConfig
from sae.architectures.topk import TopKConfig
from sae.trainable import TrainableConfig

AnySAEConfig = (
    ReLUConfig | JumpReLUConfig | TopKConfig | BatchTopKConfig | GatedConfig | MatryoshkaConfig
)


def _name_of(found: object) -> str | None:
    if isinstance(found, type) and issubclass(found, TrainableConfig):
        return found.architecture
    return None


BUILT_IN: tuple[type[TrainableConfig], ...] = get_args(AnySAEConfig)

ARCHITECTURES: Registry[type[TrainableConfig]] = Registry(
    {cls.architecture: cls for cls in BUILT_IN},
    "featureloom.architectures",
    _name_of,
    "TrainableConfig",
)
"""Config classes by the name that files and flags use."""

__all__ = [
    "ARCHITECTURES",
    "AnySAEConfig",
    "BatchTopKConfig",
    "GatedConfig",
    "JumpReLUConfig",
    "MatryoshkaConfig",
    "ReLUConfig",
    "TopKConfig",
]
