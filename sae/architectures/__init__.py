"""The architectures. The union `AnySAEConfig` is their registry: the command line, the loader and
the contract tests are all made from it, so a new architecture is one file and one entry here."""

from typing import get_args

from sae.architectures.batch_topk import BatchTopKConfig, BatchTopKSAE
from sae.architectures.gated import GatedConfig, GatedSAE
from sae.architectures.jumprelu import JumpReLUConfig, JumpReLUSAE
from sae.architectures.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from sae.architectures.relu import ReLUConfig, ReLUSAE
from sae.architectures.topk import TopKConfig, TopKSAE

AnySAEConfig = (
    ReLUConfig | JumpReLUConfig | TopKConfig | BatchTopKConfig | GatedConfig | MatryoshkaConfig
)

ARCHITECTURES: dict[str, type[AnySAEConfig]] = {
    cls.architecture: cls for cls in get_args(AnySAEConfig)
}
"""Config classes by the name that files and flags use."""

__all__ = [
    "ARCHITECTURES",
    "AnySAEConfig",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "GatedConfig",
    "GatedSAE",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "ReLUConfig",
    "ReLUSAE",
    "TopKConfig",
    "TopKSAE",
]
