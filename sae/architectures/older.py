"""Settings as versions before the relative coefficients wrote them."""

from collections.abc import Mapping
from typing import Any


def dictionary_as_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an architecture, as they are now.

    The L1 family and JumpReLU had no AuxK loss then, and JumpReLU a threshold to start from.
    """
    if "auxk_coeff" in settings:
        return dict(settings)
    kept = {name: value for name, value in settings.items() if name != "initial_threshold"}
    return {**kept, "auxk_coeff": 0.0}
