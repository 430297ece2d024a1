"""Ours, with the positions that we leave out: position 0 and special tokens."""

from sae.evaluation.compared.convention import Convention, everywhere
from sae.evaluation.compared.sae_lens import streamed
from sae.evaluation.seen import Total

error = Total(lambda seen: float(everywhere(seen).seen.error.sum()))
squared_norm = Total(lambda seen: float(everywhere(seen).seen.norm.square().sum()))
summed_inputs = Total(lambda seen: everywhere(seen).seen.inputs.sum(dim=0))
n_positions = Total(lambda seen: len(everywhere(seen).seen.x))

ALL_POSITIONS = (
    Convention(
        name="explained_variance",
        convention="the same over every position, position 0 and special tokens too",
        sums=(error, squared_norm, summed_inputs, n_positions),
        result=streamed,
        needs_model=True,  # files of activations have the counted rows alone
        ours="explained_variance",
    ),
)
