"""A feature as the batch files of SAEDashboard have it.

The fields and what they mean are those of jbloomAus/SAEDashboard at db4839a:
sae_dashboard/neuronpedia/{neuronpedia_dashboard,neuronpedia_converter,neuronpedia_runner}.py,
data_parsing_fns.py (alignment), sequence_data_generator.py (intervals), utils_fns.py (histograms).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.base import SAE
from sae.features.folder import Context, Feature, Features
from sae.features.gathered import Array
from sae.features.weights import logit_histograms

N_ALIGNED = 3
"""Neurons that are shown of each feature."""
N_LOGIT_BINS = 50

OUT_OF_RANGE = "<|outofrange|>"
"""Stands for ids that the tokenizer does not have."""

OF_BYTES = {
    "\u0120": " ",
    "\u010a": "\n",
    "\u0109": "\t",
    "\u00e2\u0122\u0136": "\u2014",  # dashes
    "\u00e2\u0122\u0135": "\u2013",
    "\u00e2\u0122\u013e": "\u201c",  # quotation marks
    "\u00e2\u0122\u013f": "\u201d",
    "\u00e2\u0122\u013a": "\u2018",
    "\u00e2\u0122\u013b": "\u2019",
    "\u00e2\u0122\u012d": " ",  # of no width
}
"""What of a byte-level vocabulary becomes text. The rest stays, and the site decodes it."""


Words = Callable[[Sequence[int]], list[str]]


def pieces_of(features: Features, tokenizer: Any = None) -> Words:
    """The strings of token ids, as SAEDashboard writes them: the tokenizer's own pieces.

    Without a tokenizer it is the text in the folder, where a part of a letter is a question mark.
    """
    if tokenizer is None:
        return features.words
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    of_bytes = re.compile("|".join(OF_BYTES))
    words = [
        OUT_OF_RANGE if piece is None else of_bytes.sub(lambda found: OF_BYTES[found[0]], piece)
        for piece in pieces
    ]
    return lambda ids: [words[i] if i < len(words) else OUT_OF_RANGE for i in ids]


class Dashboards:
    """Makes them, for some features at a time."""

    def __init__(
        self,
        features: Features,
        sae: SAE[Any],
        words: Words,
        direct_logits: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._features, self._sae, self._words = features, sae, words
        self._direct_logits = direct_logits
        facts = features.facts
        of = facts.provenance
        n_counted = max(1, facts.context_size - (not of.get("all_positions")))
        self.prompts = {
            "n_prompts_total": -(-facts.n_tokens // n_counted),
            "n_tokens_in_prompt": facts.context_size,
            "dataset": str(of.get("dataset_path") or ""),
        }

    @torch.no_grad()
    def of(self, indices: range) -> list[dict[str, Any]]:
        """Their fields, in order."""
        rows = self._sae.W_dec[indices.start : indices.stop].float()
        aligned = _alignments(rows)
        logits = self._logit_histograms(rows)
        return [
            {"feature_index": index}
            | aligned[i]
            | self._likely_tokens(index)
            | _activity(self._features[index])
            | logits[i]
            | self.prompts
            | {
                "decoder_weights_dist": [],
                "activations": self._activations(self._features[index]),
                # Without one the site says that the feature is dead, as it should.
                "vector": _numbers(rows[i], digits=9) if self._features[index].n_active else [],
            }
            for i, index in enumerate(indices)
        ]

    def _likely_tokens(self, index: int) -> dict[str, Any]:
        """The tokens that it lowers most, the lowest first, and those that it raises most."""
        found: dict[str, Any] = {}
        for theirs, ours in (("neg", "lowered"), ("pos", "raised")):
            ids = logits = torch.empty(0)
            if f"{ours}_ids" in self._features.names:
                ids = self._features.numbers(f"{ours}_ids", index)
                logits = self._features.numbers(f"{ours}_logits", index)
            found[f"{theirs}_str"] = self._words(ids.tolist())
            found[f"{theirs}_values"] = _numbers(logits)
        return found

    def _logit_histograms(self, rows: Tensor) -> list[dict[str, Any]]:
        """Over the vocabulary; empty where the site has no direct effect."""
        name = "logits_hist_data_bar"
        if self._direct_logits is None:
            return [{f"{name}_heights": [], f"{name}_values": []} for _ in rows]
        counts, ends = logit_histograms(rows, self._direct_logits, N_LOGIT_BINS)
        return [
            {
                f"{name}_heights": heights,
                f"{name}_values": _numbers(_middles(low, high, len(heights))),
            }
            for heights, (low, high) in zip(counts.tolist(), ends.tolist(), strict=True)
        ]

    def _activations(self, feature: Feature) -> list[dict[str, Any]]:
        """Its contexts. Those of a quantile come under the interval of values that they are in."""
        edges, shares = _intervals(feature)
        top = (-1.0, feature.max, -1.0)
        found: list[dict[str, Any]] = []
        for context in feature.contexts:
            i = min(int(np.searchsorted(edges, context.value, "right")), len(shares)) - 1
            its = top if context.kind == "top" else (edges[i], edges[i + 1], shares[i])
            found.append(self._activation(context, its))
        return found

    def _activation(self, context: Context, bin_: Sequence[float]) -> dict[str, Any]:
        return {
            **dict(zip(("bin_min", "bin_max", "bin_contains"), _numbers(bin_), strict=True)),
            "tokens": self._words(context.token_ids),
            "values": _numbers(context.values),
            "qualifying_token_index": context.at,
        }


def _alignments(rows: Tensor) -> list[dict[str, Any]]:
    """The largest entries of each decoder row, and their share of its L1 norm.

    Correlations with neurons and among features are not collected.
    """
    best = rows.topk(min(N_ALIGNED, rows.shape[1]), dim=1)
    shares = best.values.abs() / rows.abs().sum(dim=1, keepdim=True).clamp_min(1e-30)
    empty = {
        f"correlated_{what}_{name}": []
        for what in ("neurons", "features")
        for name in ("indices", "pearson", "l1")
    }
    return [
        {
            "neuron_alignment_indices": best.indices[i].tolist(),
            "neuron_alignment_values": _numbers(best.values[i]),
            "neuron_alignment_l1": _numbers(shares[i]),
        }
        | empty
        for i in range(len(rows))
    ]


def _activity(feature: Feature) -> dict[str, Any]:
    """How often it is active, and the histogram of its values; no bars where it never is."""
    histogram = feature.histogram if feature.n_active else []
    return {
        "frac_nonzero": rounded(feature.density),
        "freq_hist_data_bar_heights": histogram,
        "freq_hist_data_bar_values": _numbers(_middles(*_ends(feature), len(histogram))),
    }


def _ends(feature: Feature) -> tuple[float, float]:
    """Of its histogram: those that `sae.features.summary.statistics` gives it."""
    low = min(0.0, feature.min)
    return low, feature.max if feature.max > low else low + 1


def _middles(low: float, high: float, n_bins: int) -> Array:
    return low + (np.arange(n_bins) + 0.5) * (high - low) / max(1, n_bins)


def _intervals(feature: Feature) -> tuple[Array, Array]:
    """Edges [n + 1] of equally wide intervals of its values, and the share of tokens [n] in each.

    They end where bins of the histogram do, so the shares are exact. Tokens on which it is not
    active have the value 0, and count.
    """
    low, high = _ends(feature)
    histogram = np.array(feature.histogram)
    n, n_bins = feature.of.facts.shown["n_groups"], len(histogram)
    bins = np.unique(np.arange(n + 1) * n_bins // n)
    edges = low + bins * (high - low) / n_bins
    n_tokens = feature.of.facts.n_tokens
    counts = np.add.reduceat(histogram, bins[:-1])
    counts[min(int(np.searchsorted(edges, 0, "right")), len(counts)) - 1] += (
        n_tokens - feature.n_active
    )
    return edges, counts / n_tokens


def rounded(value: float) -> float:
    return _numbers([value])[0]


def _numbers(values: Any, digits: int = 5) -> list[float]:
    """To so many digits, as these files are large. Nine say every float32 exactly."""
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    return [float(f"{value:.{digits}g}") if value else 0.0 for value in values]
