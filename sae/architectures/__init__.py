"""The architectures. The union `AnySAEConfig` is their registry: the command line, the loader and
the contract tests are all made from it, so a new architecture is one file and one entry here."""

from typing import get_args

from sae.architectures.jumprelu import JumpReLUConfig, JumpReLUSAE
from sae.architectures.relu import ReLUConfig, ReLUSAE
from sae.architectures.topk import TopKConfig, TopKSAE

AnySAEConfig = ReLUConfig | JumpReLUConfig | TopKConfig

ARCHITECTURES: dict[str, type[AnySAEConfig]] = {
    cls.architecture: cls for cls in get_args(AnySAEConfig)
}
"""Config classes by the name that files and flags use."""

__all__ = [
    "ARCHITECTURES",
    "AnySAEConfig",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "ReLUConfig",
    "ReLUSAE",
    "TopKConfig",
    "TopKSAE",
]
