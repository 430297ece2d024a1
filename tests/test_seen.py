"""Which texts have come before."""

from hypothesis import given, settings
from hypothesis import strategies as st

from activation_cache.text.dedup import Seen


@settings(max_examples=25)
@given(st.lists(st.text(max_size=3)), st.sampled_from([1, 4, 64]))
def test_a_text_is_new_once_however_small_the_memory_began(texts: list[str], slots: int) -> None:
    seen = Seen(slots)
    assert [seen.is_new(text) for text in texts] == [
        text not in texts[:i] for i, text in enumerate(texts)
    ]
    assert len(seen) == len(set(texts))


def test_a_copy_has_seen_the_same_and_goes_its_own_way() -> None:
    seen = Seen(slots=4)
    seen.is_new("a")
    copy = seen.copy()
    assert not copy.is_new("a") and copy.is_new("b")
    assert seen.is_new("b")
