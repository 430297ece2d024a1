"""Tables and figures that a script makes, in the pages of the documentation."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from activation_cache.common.errors import InputError


def put_into_page(page: Path, tables: Mapping[str, str]) -> None:
    """Put every table that the page has a place for between `<!-- name -->` and `<!-- /name -->`.

    `InputError` where it has none for any.
    """
    content = page.read_text()
    places = {name: (f"<!-- {name} -->", f"<!-- /{name} -->") for name in tables}
    found = [name for name, marks in places.items() if all(mark in content for mark in marks)]
    if not found:
        begin, end = next(iter(places.values()))
        raise InputError(f"{page} has no place for the table: put {begin} and {end} into it")
    for name in found:
        begin, end = places[name]
        before, after = content.split(begin)[0], content.split(end)[1]
        content = f"{before}{begin}\n\n{tables[name]}\n\n{end}{after}"
    page.write_text(content)


def put_figures_beside(page: Path, folder: Path) -> None:
    """Copy the PNG files of a folder that the page shows to where it looks for them."""
    content = page.read_text()
    for figure in sorted(folder.glob("*.png")):
        shown = f"{page.stem}/{figure.name}"
        if f"]({shown})" in content:
            (page.parent / page.stem).mkdir(exist_ok=True)
            shutil.copyfile(figure, page.parent / shown)
