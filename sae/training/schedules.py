"""Schedules as functions of progress, the share of the training tokens already seen, in [0, 1)."""


def warm_up(progress: float, fraction: float) -> float:
    """Rises linearly from 0 to 1 over the first `fraction` of the run."""
    return 1.0 if progress >= fraction else progress / fraction


def warm_up_and_decay(progress: float, warmup_fraction: float, decay_fraction: float) -> float:
    """Rises to 1 as `warm_up` does, stays, and falls linearly to 0 over the last part."""
    remaining = 1.0 - progress
    decay = 1.0 if remaining >= decay_fraction else remaining / decay_fraction
    return min(warm_up(progress, warmup_fraction), decay)
