"""What people wrote down about features: a file in the folder, which pages read too."""

import json
from pathlib import Path

from activation_cache.common.errors import InputError
from activation_cache.common.files import write_file

NOTES = "notes.js"
"""A script, as a page that is opened from disk may not read JSON."""
BEFORE, AFTER = 'given("notes", ', ");\n"


class Notes:
    """By feature, as text."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NOTES

    def read(self) -> dict[int, str]:
        if not self._path.exists():
            return {}
        text = self._path.read_text()
        try:
            notes = json.loads(text.removeprefix(BEFORE).removesuffix(AFTER))
            return {int(feature): str(note) for feature, note in notes.items()}
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"{self._path} cannot be read ({error}): repair or remove it"
            ) from error

    def write(self, feature: int, note: str) -> None:
        """Keep a note; an empty one removes what was there."""
        notes = self.read()
        notes[feature] = note.strip()
        self.write_all({i: text for i, text in sorted(notes.items()) if text})

    def write_all(self, notes: dict[int, str]) -> None:
        write_file(self._path, f"{BEFORE}{json.dumps(notes, indent=1)}{AFTER}")
