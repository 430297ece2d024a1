"""Jinja templates: HTML and SVG escape whatever they are given, Markdown does not."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@cache
def template(file: Path) -> Template:
    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=not file.name.endswith(".md.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(file.name)
