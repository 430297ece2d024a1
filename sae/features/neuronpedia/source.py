"""What a dictionary is called on Neuronpedia: gpt2-small/4-res-mine."""

import re
from dataclasses import dataclass

from activation_cache.common.errors import InputError

# Neuronpedia looks ids up in lower case. Its schema allows no dot in a model's id, and ids that it
# has, such as llama3.1-8b, have one. A source begins with its layer, or with e for the embedding.
PART = r"[a-z0-9][a-z0-9._-]{0,127}"
NAME = re.compile(rf"(?P<model_id>{PART})/(?P<layer>0|[1-9][0-9]{{0,5}}|e)-(?P<rest>{PART})")
SUFFIX = "__"
"""Sets a source apart from others of the same set and layer: 4-res-mine__k-64."""


@dataclass(frozen=True)
class SourceName:
    """A model and one of its sources, as in the address of a page on neuronpedia.org.

    hijohnnylin/neuronpedia, apps/webapp/lib/utils/source.ts, takes a source apart in this way.
    """

    model_id: str
    source_id: str
    """The layer, the set, and the suffix if there is one."""
    layer: int
    set_name: str
    suffix: str | None = None

    @classmethod
    def parse(cls, name: str) -> "SourceName":
        """From MODEL_ID/SOURCE; `InputError` where it is of another form."""
        found = NAME.fullmatch(name)
        set_name, delimiter, suffix = found["rest"].partition(SUFFIX) if found else ("", "", "")
        if found is None or not set_name or bool(delimiter) != bool(suffix):
            raise InputError(
                f"{name!r} is no name of a source on Neuronpedia: give MODEL_ID/SOURCE, where "
                f"SOURCE is a layer, a dash and a name, in lower case: gpt2-small/4-res-mine"
            )
        layer = 0 if found["layer"] == "e" else int(found["layer"])
        source_id = name.partition("/")[2]
        return cls(found["model_id"], source_id, layer, set_name, suffix or None)
