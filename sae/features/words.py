"""The text of each token id, also of tokens that are part of a character."""

import re
from functools import cache
from typing import Any

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece vocabularies write a single byte."""
SPACE_PIECE = "\u2581"
"""How they write the space in front of a word, which decoding one token drops."""


def words_of(tokenizer: Any) -> list[str]:
    r"""The text of every token id; bytes that are no whole character as `\xe2`."""
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [_word(tokenizer, i, piece) for i, piece in enumerate(pieces)]


def _word(tokenizer: Any, token_id: int, piece: str | None) -> str:
    text = tokenizer.decode([token_id])
    if piece is None:
        return text
    if piece.startswith(SPACE_PIECE) and not text.startswith(" "):
        return " " + text
    if "\ufffd" in text and (raw := _bytes_of(piece)) is not None:
        return raw.decode("utf-8", "backslashreplace")
    return text


def _bytes_of(piece: str) -> bytes | None:
    """The bytes that a piece stands for; None where it is neither way of writing them."""
    if found := BYTE_PIECE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    letters = byte_letters()
    if all(letter in letters for letter in piece):
        return bytes(letters[letter] for letter in piece)
    return None


@cache
def byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte: itself where that can be printed, and
    the letters from U+0100 on for the others, in order (Radford et al. 2019)."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }
