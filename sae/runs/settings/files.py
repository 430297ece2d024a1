"""What a JSON or YAML file maps names to, read so that no file can do more than that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from activation_cache.common.errors import InputError

LARGEST_FILE = 2**18
"""Bytes that are read of a file of settings; a grid of a hundred entries has ten thousand."""

REMEDY = "give a JSON or YAML file that maps the names of flags to values"


def read_settings_file(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file maps names to; `InputError` where it cannot be read as that."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        content = yaml.load(data.decode(), Loader=_Loader)  # JSON is YAML
    except Exception as error:  # where a tag does not fit its value, yaml raises any kind
        raise InputError(f"cannot read the config file {path}: {_said(error)}; {REMEDY}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"the config file {path} must map flag names to values")
    return dict(content)


class _Loader(yaml.SafeLoader):
    """Plain values only; a key twice in one mapping is refused, where YAML takes the last one."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what is merged (`<<`) into the mapping; once, however often it is merged.

        A few lines of merges of merges would else grow beyond all memory.
        """
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for i, key in enumerate(own):
            if _identity(key) in map(_identity, own[:i]):
                raise yaml.constructor.ConstructorError(
                    problem=f"it says {key.value!r} twice", problem_mark=key.start_mark
                )
        super().flatten_mapping(node)
        node.value = list({_identity(pair[0]): pair for pair in node.value}.values())


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _said(error: Exception) -> str:
    """An error in one line, with the place in the file that it is about."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, ValueError | RecursionError | yaml.YAMLError):
        return str(error).split("\n")[0]
    return "a value is not of the kind that its tag says"
