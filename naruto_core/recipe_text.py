"""Recipe text: YAML files are parsed strictly, values of `--set` by the type of their field.

YAML guesses types: `ninja #1` is `ninja`, `012` is 10, `1:30` is 90, `no` is false. In a file, quotes prevent it; on a
command line the shell removes them. So a value of `--set` is parsed as YAML only where the field is a list or mapping.
"""

import os
import re
import reprlib
import stat
import types
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from naruto_core.errors import RecipeInvalid

MAX_YAML_NODES = 100_000  # with every alias expanded; the longest shipped recipe has about 100
MAX_FILE_BYTES = 1_000_000  # of a recipe or a suite; the longest shipped file has 10,000
_SHOWN = 8  # problems of a recipe that one sentence names
_INT_TAG = "tag:yaml.org,2002:int"
_NULL = ("", "null", "none")

_PROBLEMS = {
    "tuple_type": "it must be a list",
    "list_type": "it must be a list",
    "dict_type": "it must have keys and values",
    "model_type": "it must have keys and values",
    "model_attributes_type": "it must have keys and values",
}
_PATTERNS = {  # the beginning of a field's pattern, and what the field takes
    r"^[a-z0-9][a-z0-9-]": "it may have lower-case letters, digits and hyphens only, begins with no hyphen",
    r"^\w[\w -]": "it may have letters, digits, spaces, hyphens and underscores, and begins with no space or hyphen",
    r"^(s3:": "it must be s3://BUCKET or s3://BUCKET/FOLDER",
    r"^(local|dask": "it must be local or dask:ADDRESS",
    r"^[0-9a-f]{64}": "it must have 64 hexadecimal digits",
    r"^(auto|[0-9]": "it must be auto or WIDTHxHEIGHT in pixels, e.g. 64x64",
}

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 100


def _decimal(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


class _DecimalLoader(yaml.SafeLoader):
    """SafeLoader with decimal integers only, as in YAML 1.2: 012 is 12; 1:30, 0x10 and 1_6 are text."""


_DecimalLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INT_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_DecimalLoader.add_implicit_resolver(_INT_TAG, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_DecimalLoader.add_constructor(_INT_TAG, _decimal)


def read_text_file(path: Path) -> str:
    """The text of a recipe or suite, in UTF-8. Raises RecipeInvalid for a file that is none or too large; OSError,
    UnicodeDecodeError."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RecipeInvalid("it is not a file.")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise RecipeInvalid(f"it has more than {MAX_FILE_BYTES:,} bytes.")
    return data.decode("utf-8-sig")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for a writer


def read_yaml(text: str) -> Any:
    """The YAML document in `text`; None when it is empty.

    Raises RecipeInvalid, in one line, for broken YAML, a repeated key of a mapping, a tag that is not
    YAML's own, and for aliases or nesting that make the document infinite or very large.
    """
    try:
        loader = _DecimalLoader(text)
    except yaml.YAMLError as error:  # a control character
        raise RecipeInvalid(" ".join(str(error).split())) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise RecipeInvalid(" ".join(str(error).split())) from error
    except RecursionError:
        raise RecipeInvalid("its lists and mappings are nested too deeply.") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # `!!int x`, 2024-13-45, 5,000 digits
        raise RecipeInvalid(f"a value cannot be read: {' '.join(str(error).split())}.") from error
    finally:
        loader.dispose()


def _count_nodes(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of nodes below `node`, with every alias expanded. Raises RecipeInvalid above MAX_YAML_NODES."""
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise RecipeInvalid("an alias refers to a part of the file that contains the alias itself.")
        return known
    sizes[id(node)] = 0  # not finished
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _reject_repeated_keys(node)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[id(node)] = 1 + sum(_count_nodes(child, sizes) for child in children)
    if sizes[id(node)] > MAX_YAML_NODES:
        raise RecipeInvalid(f"it has more than {MAX_YAML_NODES:,} values when its aliases are expanded.")
    return sizes[id(node)]


def _reject_repeated_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise RecipeInvalid(f"the key {key.value} is repeated (in line {key.start_mark.line + 1}).")
            seen.add(key.value)


def value_from_text(model: type[BaseModel], key: str, text: str) -> Any:
    """`text` parsed for the field of `model` with the dotted name `key`; the model validates it later.

    Text and numbers stay text, for pydantic to parse; `null`, `none` or "" is None where the field is optional;
    a field that may be a list, a mapping or a section is parsed as YAML. Raises RecipeInvalid for broken YAML.
    """
    annotation = _annotation_of(model, key)
    kinds = _alternatives(annotation)
    if type(None) in kinds and text.strip().lower() in _NULL:
        return None
    if any(_is_container(kind) for kind in kinds):
        try:
            return read_yaml(text)
        except RecipeInvalid as error:
            raise RecipeInvalid(f"{key} needs a list or a mapping in YAML, but {text!r} is not: {error}") from None
    return text


def _annotation_of(model: type[BaseModel], key: str) -> Any:
    annotation: Any = model
    for part in key.split("."):
        for kind in _alternatives(annotation):
            if _is_section(kind) and part in (fields := _fields(kind)):
                annotation = fields[part].annotation
                break
            if get_origin(kind) is dict:
                annotation = get_args(kind)[1]
                break
        else:
            return str  # an unknown key: the model rejects it by name
    return annotation


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for member in get_args(annotation) for kind in _alternatives(member))
    return (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of `model` by their keys in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _is_container(kind: Any) -> bool:
    return _is_section(kind) or (get_origin(kind) or kind) in (tuple, list, dict)


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of `model`, sections included; keys inside lists are omitted."""
    keys: list[str] = []
    for name, field in _fields(model).items():
        keys.append(prefix + name)
        for kind in _alternatives(field.annotation):
            if _is_section(kind):
                keys += keys_of(kind, f"{prefix}{name}.")
    return keys


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """A pydantic error of `model` as one sentence: the first fields, each with the problem and the value it got."""
    parts: list[str] = []
    for item in error.errors()[:_SHOWN]:
        where = ".".join(str(part) for part in item["loc"]) or "recipe"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key {where}{_near_key(model, where)}")
        elif item["type"] == "missing":
            parts.append(f"{where} is missing")
        else:
            value = item["input"]
            shown = "" if isinstance(value, dict | BaseModel) else f" (got {_shortened.repr(value)})"
            parts.append(f"{where}: {problem(item)}{shown}")
    more = error.error_count() - len(parts)
    return "; ".join(parts) + (f"; and {more} more." if more else ".")


def problem(item: Mapping[str, Any]) -> str:
    """What pydantic found wrong with one value, in words that need no knowledge of Python or of regular expressions."""
    if item["type"] == "string_pattern_mismatch":
        pattern = item.get("ctx", {})["pattern"]
        words = next((words for start, words in _PATTERNS.items() if pattern.startswith(start)), item["msg"])
        longest = re.search(r"\]\{0,(\d+)\}\$", pattern)
        return f"{words}, and has at most {int(longest[1]) + 1} characters" if longest else words
    message: str = item["msg"]
    return _PROBLEMS.get(item["type"], message.removeprefix("Value error, "))


def _near_key(model: type[BaseModel], key: str) -> str:
    known = keys_of(model)
    near = [name for name in known if name.rpartition(".")[2] == key] or get_close_matches(key, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""
