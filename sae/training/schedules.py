"""Schedules as functions of progress, a share of the training tokens, in [0, 1]."""


def warm_up(progress: float, fraction: float) -> float:
    """Rises linearly from 0 to 1 over the first `fraction` of the run."""
    return 1.0 if progress >= fraction else progress / fraction


def decay(progress: float, fraction: float) -> float:
    """1, and over the last `fraction` of the run linearly down to 0."""
    remaining = 1.0 - progress
    return 1.0 if remaining >= fraction else remaining / fraction
