"""How stable features are over seeds, where `featureloom stability` left it beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from sae.features import Features

STABILITY = "stability.parquet"
"""In the folder of a run: a row for each feature, and in its metadata `DICTIONARY`."""
DICTIONARY = b"dictionary"
"""A hash of the weights that the rows are about, as features have it too."""
SHOWN = (
    *("verdict", "reappears", "matched_cosine", "matched_correlation"),
    *("nearest_twin", "twin_correlation", "variance_share"),
)


def over_seeds(features: Features) -> Sequence[dict[str, Any]]:
    """The numbers of each feature; none where there are none of this dictionary. `InputError` for a
    file that cannot be read."""
    path: Path = features.folder.parent / STABILITY
    if not path.is_file():
        return []
    from pyarrow import ArrowException  # takes a moment to import
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            of = (file.schema_arrow.metadata or {}).get(DICTIONARY, b"")
            is_of_these = of == features.facts.dictionary.encode()
            return file.read([*SHOWN]).to_pylist() if is_of_these else []
    except ArrowException as error:
        raise InputError(
            f"{path} cannot be read: write it again with `featureloom stability`, or remove it"
        ) from error
