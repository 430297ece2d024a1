"""Tables and figures that a script makes, in the pages of the documentation."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from activation_cache.common.errors import InputError


def put_into_page(page: Path, tables: Mapping[str, str]) -> None:
    """Put every table that the page has a place for between `<!-- name -->` and `<!-- /name -->`.

    `InputError` where it has none for any.
    """
    found = places_in(page, tables)
    content = page.read_text()
    for name in found:
        begin, end = _marks(name)
        before, after = content.split(begin)[0], content.split(end)[1]
        content = f"{before}{begin}\n\n{tables[name]}\n\n{end}{after}"
    page.write_text(content)


def places_in(page: Path, names: Iterable[str]) -> list[str]:
    """Those of the tables that the page has a place for; `InputError` where it has none for any."""
    content = page.read_text() if page.is_file() else ""
    found = [name for name in names if all(mark in content for mark in _marks(name))]
    if not found:
        begin, end = _marks(next(iter(names)))
        raise InputError(f"{page} has no place for the table: put {begin} and {end} into it")
    return found


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def put_figures_beside(page: Path, folder: Path) -> None:
    """Copy the PNG files of a folder that the page shows to where it looks for them."""
    content = page.read_text()
    for figure in sorted(folder.glob("*.png")):
        shown = f"{page.stem}/{figure.name}"
        if f"]({shown})" in content:
            (page.parent / page.stem).mkdir(exist_ok=True)
            shutil.copyfile(figure, page.parent / shown)
