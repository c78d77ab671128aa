"""YAML as an operator's file may use it: repeated keys are found, and whatever cannot be read is one kind of error."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

INT_BITS = 63


class NotYaml(Exception):
    """The text cannot be read; the message says where and why, without the line, which may hold a secret."""


def load(text: str) -> tuple[Any, list[tuple[int, Any]]]:
    """The value of a text, and every key that stands in a mapping a second time, with its line. Raises NotYaml."""
    repeated: list[tuple[int, Any]] = []
    try:
        return yaml.load(text, _loader(repeated)), repeated
    except yaml.YAMLError as error:
        raise NotYaml(_syntax(error)) from None
    except RecursionError:
        raise NotYaml("nested too deeply") from None
    except Exception:  # noqa: BLE001 - PyYAML makes numbers and dates by hand, and lets everything out
        raise NotYaml("a value that looks like a number, a date or a tag's text and is none; quote it") from None


def _loader(repeated: list[tuple[int, Any]]) -> type[yaml.SafeLoader]:
    """A safe loader; the plain one silently keeps the last of repeated keys."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, "a key that is a list or a mapping", key_node.start_mark)
            if key in seen:
                repeated.append((key_node.start_mark.line + 1, key))
            seen.add(key)
        loader.flatten_mapping(node)
        return dict(loader.construct_pairs(node, deep=True))

    def integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
        value = int(loader.construct_yaml_int(node))
        if value.bit_length() > INT_BITS:
            raise ConstructorError(None, None, f"a number of more than {INT_BITS} bits", node.start_mark)
        return value

    def string(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
        value = str(loader.construct_scalar(node))
        if any("\ud800" <= c <= "\udfff" for c in value):  # by an escape; nobody could print or encode it
            raise ConstructorError(None, None, "half a character", node.start_mark)
        return value

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    Strict.add_constructor("tag:yaml.org,2002:int", integer)
    Strict.add_constructor("tag:yaml.org,2002:str", string)
    return Strict


def _syntax(error: yaml.YAMLError) -> str:
    """What the parser says and where, without the line it would quote."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return str(error).replace("\n", " ")
