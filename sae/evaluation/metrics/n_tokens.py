"""How many tokens were counted."""

from sae.evaluation.metric import Metric
from sae.evaluation.seen import n_tokens

METRIC = Metric(
    name="n_tokens",
    convention="counted tokens: held-out text, without position 0 and special tokens unless asked",
    meaning="tokens that were counted",
    sums=(n_tokens,),
    result=int,
    has_interval=False,
    in_table=False,  # it is in the caption
)
