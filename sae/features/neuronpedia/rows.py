"""Rows of Neuronpedia's tables, as its bulk import reads them.

The columns are those of hijohnnylin/neuronpedia at ebb8426, apps/webapp/prisma/schema.prisma. Its
import (apps/webapp/lib/db/import.ts) takes the columns from the first line of a file, so that all
lines have the same; what is not named gets its default, as `createdAt` does. Values are as
jbloomAus/SAEDashboard at db4839a, sae_dashboard/neuronpedia/neuronpedia_export.py, gives them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import xxhash

from sae.features.folder import Feature, FolderFacts
from sae.features.neuronpedia.dashboard import rounded
from sae.features.neuronpedia.source import SourceName

CREATOR_ID = "clkht01d40000jv08hvalcvly"
"""The user that every Neuronpedia has: rows belong to it until they are given to another."""
CREATOR_NAME = "Featureloom"

Row = dict[str, Any]


def tables(
    name: SourceName, facts: FolderFacts, prompts: Mapping[str, Any], n_layers: int
) -> dict[str, Row]:
    """The only row of each of the tables that features belong to, by the name of its file."""
    release = name.set_name
    about = f"{facts.d_sae:,} features of {facts.hook_name}"
    shared = {"creatorId": CREATOR_ID, "visibility": "PUBLIC"}
    return {
        "release": {
            "name": release,
            "description": about,
            "descriptionShort": about,
            "urls": [],
            "creatorName": CREATOR_NAME,
            "creatorNameShort": CREATOR_NAME,
        }
        | shared,
        # One that Neuronpedia has is not changed by the import.
        "model": {
            "id": name.model_id,
            "displayName": name.model_id,
            "displayNameShort": name.model_id,
            "instruct": name.model_id.endswith("-it"),
            "layers": n_layers,
            "neuronsPerLayer": 0,
            "owner": "",
        }
        | shared,
        "sourceset": {
            "modelId": name.model_id,
            "name": name.set_name,
            "description": about,
            "creatorName": CREATOR_NAME,
            "releaseName": release,
            "urls": [],
            "hasDashboards": True,
        }
        | shared,
        "source": {
            "id": name.source_id,
            "modelId": name.model_id,
            "setName": name.set_name,
            "hasDashboards": True,
            "num_prompts": prompts["n_prompts_total"],
            "num_tokens_in_prompt": prompts["n_tokens_in_prompt"],
            "dataset": prompts["dataset"],
        }
        | shared,
    }


NOT_OF_A_NEURON = {
    *("feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"),
}
"""Fields of a dashboard that its row in the table Neuron does not have."""


def neuron(name: SourceName, feature: Feature, dashboard: Row, hook_name: str | None) -> Row:
    """The row of a feature, of what its dashboard shows."""
    most, has_vector = rounded(feature.max), bool(dashboard["vector"])
    # The page leaves out the first of the similar features: it takes it for the feature itself.
    similar = [(feature.index, 1.0), *feature.neighbours]
    return {
        **_place(name, feature.index),
        "sourceSetName": name.set_name,
        "maxActApprox": most,
        "hasVector": has_vector,
        "vectorDefaultSteerStrength": most if has_vector else 10,
        "hookName": hook_name,
        "topkCosSimIndices": [index for index, _ in similar],
        "topkCosSimValues": [rounded(cosine) for _, cosine in similar],
        **{key: value for key, value in dashboard.items() if key not in NOT_OF_A_NEURON},
    }


def activations(name: SourceName, dashboard: Row) -> Iterator[Row]:
    """The rows of a feature's contexts."""
    for number, context in enumerate(dashboard["activations"]):
        values = context["values"]
        of = f"{name.model_id}/{name.source_id}/{dashboard['feature_index']}/{number}"
        most = max(values)
        yield {
            # From the place, so that a second import adds nothing: the table keeps what it has.
            "id": f"c{xxhash.xxh3_128_hexdigest(of.encode())[:24]}",
            **_place(name, dashboard["feature_index"]),
            "tokens": context["tokens"],
            "values": values,
            "maxValue": most,
            "maxValueTokenIndex": values.index(most),
            "minValue": min(values),
            "binMin": context["bin_min"],
            "binMax": context["bin_max"],
            "binContains": context["bin_contains"],
            "qualifyingTokenIndex": context["qualifying_token_index"],
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "lossValues": [],
        }


def _place(name: SourceName, index: int) -> Row:
    """Whose page it is on: the table Neuron calls the source a layer, and an index is text."""
    return {
        "modelId": name.model_id,
        "layer": name.source_id,
        "index": str(index),
        "creatorId": CREATOR_ID,
    }
