"""Which texts have come before, in memory that does not grow while they come."""

from array import array

KEY_BITS = 63


class Seen:
    """The texts that were asked about, by their hashes: 8 bytes each, in one block.

    A set of numbers takes ten times as much and grows in leaps all through a pass over the text.
    The block is made at once; it doubles where two thirds of it are taken.
    """

    def __init__(self, slots: int = 2**20) -> None:
        self._table = array("Q", bytes(8 * slots))
        self._n_texts = 0

    def __len__(self) -> int:
        return self._n_texts

    def is_new(self, text: str) -> bool:
        """Whether it is asked about for the first time."""
        is_new = self._add(hash(text) % 2**KEY_BITS + 1)  # 0 is an empty slot
        if is_new:
            self._n_texts += 1
            if 3 * self._n_texts > 2 * len(self._table):
                self._grow()
        return is_new

    def copy(self) -> "Seen":
        """One that has seen the same, and then goes its own way."""
        other = Seen(slots=0)
        other._table, other._n_texts = self._table[:], self._n_texts
        return other

    def _add(self, key: int) -> bool:
        """Put a key where it belongs or next to that; false where it is there."""
        place = key % len(self._table)
        while self._table[place] not in (0, key):
            place = (place + 1) % len(self._table)
        is_new = self._table[place] == 0
        self._table[place] = key
        return is_new

    def _grow(self) -> None:
        keys = self._table
        self._table = array("Q", bytes(2 * 8 * len(keys)))
        for key in keys:
            if key:
                self._add(key)
