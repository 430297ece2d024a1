"""What a JSON or YAML file maps names to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from activation_cache.common.errors import InputError

REMEDY = "give a JSON or YAML file that maps the names of flags to values"


def read_settings_file(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file maps names to; `InputError` where it cannot be read as that."""
    try:
        content = yaml.load(path.read_bytes().decode(), Loader=_Loader)  # JSON is YAML
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"cannot read the config file {path}: {_reason(error)}; {REMEDY}"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"the config file {path} must map flag names to values")
    return dict(content)


class _Loader(yaml.SafeLoader):
    """Plain values only; a key twice in one mapping is refused, where YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    problem=f"it has {key.value!r} twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def _reason(error: Exception) -> str:
    """An error in one line, with the place in the file that it is about."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).split("\n")[0]
