"""Models trained in every way out of superposition, and dictionaries of those left alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.analysis.matching import cosines
from sae.architectures import AnySAEConfig, ReLUConfig, TopKConfig
from sae.base import SAE
from sae.papers.toy_models.section import Scale, fit
from sae.toy import (
    Independent,
    Kind,
    SparseFeatures,
    ToyConfig,
    ToyModels,
    ToyTrainConfig,
    recovery,
    stratified,
)
from sae.toy.geometry import feature_dimensionality, is_represented

KINDS: dict[Kind, str] = {"relu_output": "linear hidden layer", "relu_hidden": "ReLU hidden layer"}
L1_COEFFS = (0.0003, 0.001, 0.002, 0.003, 0.005, 0.008)
"""Against the squared error's mean over features."""
SHARES = (0.1, 0.2, 0.4, 0.8, 1.2)
"""Of the mean norm of the input: how far an adversary may go."""
DICTIONARY_L1_COEFFS, DICTIONARY_K = (0.03, 0.1, 0.2), 4
DICTIONARY, TOPK_DICTIONARY = "L1 dictionary afterwards", "TopK dictionary afterwards"
DENSITY, RATIO = 0.03, 0.9
"""p, and the ratio of one feature's importance to that of the one before."""
SIZE = 40, 20
"""n and m."""
OWN_DIMENSION, OWN_FEATURE = 0.9, 0.9
"""The share of a dimension, and the cosine, from which something is a feature's own."""


@dataclass(frozen=True)
class Point:
    """One way out, gone so far."""

    way: str
    kind: str
    strength: float
    cost: float
    """The loss in units of the best loss without superposition: that of the m most important."""
    features_per_dimension: float
    """Represented features per hidden dimension, or recovered ones per living feature of a
    dictionary."""
    superposition: float
    """Mean over represented features of the squared cosines with all the others."""
    recovered: int
    """Features with a dimension, or a feature of the dictionary, of their own."""


class Bench:
    """The models of one seed, trained in every way, and the dictionaries of those left alone."""

    def __init__(self, scale: Scale, seed: int) -> None:
        self.scale, self.seed = scale, seed
        self.n, self.m = scale.n or SIZE[0], scale.m or SIZE[1]
        self.density = scale.densities[0] if scale.densities else DENSITY
        self.importance = RATIO ** torch.arange(float(self.n))
        self.features = self.at(self.density)
        generator = torch.Generator().manual_seed(10_000 + seed)
        x, weights = stratified(self.features, 20_000, generator)
        self.x, self.weights = x[:, None].to(scale.device), weights.to(scale.device)
        v = self.density / 3 - self.density**2 / 4
        self.without_superposition = v * self.importance[self.m :].sum().item() / self.n

    def at(self, density: float) -> Independent:
        return Independent(torch.full((self.n,), density))

    def points(self) -> Iterator[Point]:
        for kind in KINDS:
            penalised = self.trained(kind, l1_coeff=(0.0, *L1_COEFFS))
            yield self.point("none", penalised, 0, 0.0)
            for i, l1_coeff in enumerate(L1_COEFFS):
                yield self.point("L1 penalty", penalised, i + 1, l1_coeff)
            attacked = self.trained(kind, adversarial_share=SHARES)
            for i, share in enumerate(SHARES):
                yield self.point("adversarial training", attacked, i, share)
            if kind == "relu_output":
                yield from self.with_dictionaries(penalised)

    def untrained(self) -> Iterator[Point]:
        """As if every way had been gone, by models and dictionaries that learned nothing."""
        for kind in KINDS:
            models = self.fresh(kind)
            yield self.point("none", models, 0, 0.0)
            yield self.point("L1 penalty", models, 0, L1_COEFFS[-1])
            for share in SHARES:
                yield self.point("adversarial training", models, 0, share)
            if kind == "relu_output":
                yield from self.with_dictionaries(models, is_trained=False)

    def fresh(self, kind: Kind, settings: int = 1) -> ToyModels:
        cfg = ToyConfig(n_features=self.n, n_hidden=self.m, kind=kind)
        return ToyModels(cfg, settings=settings, seed=self.seed).to(self.scale.device)

    def trained(
        self,
        kind: Kind,
        *,
        l1_coeff: tuple[float, ...] = (),
        adversarial_share: tuple[float, ...] = (),
        density: float | None = None,
    ) -> ToyModels:
        """A model for every strength."""
        cfg = ToyTrainConfig(
            n_steps=self.scale.steps or self.scale.choose(2000, 500),
            batch_tokens=256,
            lr=1e-2,
            l1_coeff=l1_coeff or 0.0,
            adversarial_share=adversarial_share or 0.0,
            seed=self.seed,
        )
        models = self.fresh(kind, settings=max(1, len(l1_coeff), len(adversarial_share)))
        features = self.features if density is None else self.at(density)
        return fit(models, features, cfg, self.importance)

    def represented_per_dimension(self, kind: Kind, density: float | None = None) -> float:
        W = self.trained(kind, density=density).W
        return is_represented(W).sum().item() / self.m

    def point(self, way: str, models: ToyModels, setting: int, strength: float) -> Point:
        W = models.W[setting, 0].detach().cpu()
        represented = is_represented(W)
        x, weights = (t.expand(models.settings, *t.shape[1:]) for t in (self.x, self.weights))
        loss = models.losses(x, self.importance, weights)[setting, 0].item()
        own = represented & (feature_dimensionality(W) > OWN_DIMENSION)
        return Point(
            way=way,
            kind=KINDS[models.cfg.kind],
            strength=strength,
            cost=loss / self.without_superposition,
            features_per_dimension=represented.sum().item() / self.m,
            superposition=_superposition(W[:, represented]),
            recovered=int(own.sum()),
        )

    @torch.no_grad()
    def with_dictionaries(self, models: ToyModels, *, is_trained: bool = True) -> Iterator[Point]:
        """Dictionaries of the hidden layer, twice as wide as there are features."""
        W = models.W[0, 0].detach().cpu()
        cfgs: list[AnySAEConfig] = [
            *(ReLUConfig(d_sae=2 * self.n, l1_coeff=coeff) for coeff in DICTIONARY_L1_COEFFS),
            TopKConfig(d_sae=2 * self.n, k=DICTIONARY_K),
        ]
        stream = SparseFeatures(self.features, self.m, directions=W.T, seed=self.seed)
        dictionaries: Sequence[SAE] = [cfg.build(self.m, seed=self.seed) for cfg in cfgs]
        if is_trained:
            n_tokens = self.scale.choose(2000, 500) * 1024
            with torch.enable_grad():
                dictionaries = recovery.fit(cfgs, stream, recovery.recipe(n_tokens, seed=self.seed))
        for cfg, dictionary in zip(cfgs, dictionaries, strict=True):
            strength = cfg.l1_coeff if isinstance(cfg, ReLUConfig) else DICTIONARY_K
            way = DICTIONARY if isinstance(cfg, ReLUConfig) else TOPK_DICTIONARY
            yield self.of_dictionary(way, models, dictionary, strength)

    @torch.no_grad()
    def of_dictionary(self, way: str, models: ToyModels, dictionary: SAE, strength: float) -> Point:
        """What the model loses where its hidden layer is replaced by the reconstruction, and how
        the dictionary represents each feature: by its code of that feature alone."""
        W = models.W[0, 0].detach().cpu()
        represented = is_represented(W)
        h = models.hidden(self.x.expand(models.settings, -1, -1, -1))[:1]
        codes = dictionary.encode(h[0, 0].T.cpu())
        rebuilt = dictionary.decode(codes).T.to(h).expand(models.settings, 1, -1, -1)
        out = models.output(rebuilt)[:1]
        error = (out - self.x).square() * self.importance.to(h)[:, None]
        best = cosines(W.T[represented], dictionary.W_dec).amax(dim=1)
        n_alive = int((codes > 0).any(dim=0).sum())
        return Point(
            way=way,
            kind=KINDS[models.cfg.kind],
            strength=strength,
            cost=(error.mean(dim=2) * self.weights).sum().item() / self.without_superposition,
            features_per_dimension=represented.sum().item() / max(1, n_alive),
            superposition=_superposition(dictionary.encode(W.T[represented]).T),
            recovered=int((best > OWN_FEATURE).sum()),
        )


def _superposition(W: Float[Tensor, "m n"]) -> float:
    """Mean over features of the squared cosines with all the others; 0 where there is none."""
    unit = W / W.norm(dim=0).clamp_min(1e-12)
    products = (unit.T @ unit).square()
    return ((products.sum(dim=1) - products.diagonal()).mean()).item() if W.shape[1] else 0.0
