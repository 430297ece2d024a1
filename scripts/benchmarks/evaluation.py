"""The evaluation of a dictionary, against the forward passes that it needs."""

from collections.abc import Iterator

import torch

from benchmarks.attach import random_text, row_of, with_dictionary
from benchmarks.measure import BenchFlags, Row, measure
from sae.evaluation import evaluate


def evaluation_rows(flags: BenchFlags) -> Iterator[Row]:
    """evaluate: all metrics of one dictionary on --cache-tokens tokens, against bare passes."""
    model, dictionary = with_dictionary(flags)
    text = random_text(flags, model, flags.cache_tokens)
    hook_name = str(dictionary.hook_name)
    n_tokens = sum(tokens.numel() for tokens, _ in text)

    @torch.no_grad()
    def passes() -> int:
        """Up to the site for the mean; to the end; and from the site's block under zero, mean and
        splice. All four with logits, and nothing made of them."""
        for tokens, _ in text:
            model.activations(tokens, [hook_name])
            shared = model.shared_pass(tokens, [hook_name])
            last = [shared.clean, *(shared.edited(hook_name, lambda x: x) for _ in range(3))]
            for of in last:
                for rows in of.flatten(0, 1).split(256):
                    model.unembed(rows)
        return n_tokens

    def evaluated() -> int:
        evaluate(dictionary, model, text, hook_name)
        return n_tokens

    measured = measure(evaluated, passes, flags.repeats, model.device)
    yield row_of(flags, "evaluate", dictionary, measured)
