"""YAML as people write it into files: safe types, no key twice, errors in one line."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class DocumentError(ValueError):
    """A text that is no YAML; says where and why."""


def read(data: bytes) -> list[Any]:
    """The documents of a YAML text; `DocumentError` for what is none."""
    try:
        return list(yaml.load_all(data, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise DocumentError(f"{where}{error.problem}") from None
    except RecursionError:
        raise DocumentError("it is not YAML to be used: too deep, or it holds itself") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(f"it is not YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML's safe types; a key that stands twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
