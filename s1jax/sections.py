"""Dataclasses of fields and sections, as ConfigDicts and texts of a command line, and back.

Knows types and names; what the fields mean is `config.py`'s.
"""

import ast
import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict


def to_config_dict(section: Any) -> ConfigDict:
    """A dataclass as a ConfigDict that can be set, a None as a placeholder of its type."""
    out = ConfigDict()
    hints = typing.get_type_hints(type(section))
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            out[f.name] = to_config_dict(value)
        elif value is None:
            out[f.name] = config_dict.placeholder(_without_none(hints[f.name]))
        else:
            out[f.name] = value
    return out


def _without_none(hint: Any) -> type:
    if isinstance(hint, types.UnionType):
        return next(t for t in typing.get_args(hint) if t is not type(None))
    return typing.cast(type, hint)


def with_texts(cls: type, config: ConfigDict, texts: Mapping[str, str]) -> ConfigDict:
    """The ConfigDict of a `cls` with the fields at these paths set to what the texts stand for.

    Nothing is refused here: `read_section` names what is no field or has the wrong type.
    """
    values = config.to_dict()
    for path, text in texts.items():
        *sections, last = path.split(".")
        section = values
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = _literal(text, _hint(cls, path))
    return ConfigDict(values)


def _hint(cls: type, path: str) -> Any:
    """The type of a field; None if there is no such field."""
    hint: Any = cls
    for name in path.split("."):
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return hint


def _literal(text: str, hint: Any) -> Any:
    """The value that a text stands for, or the text itself where it stands for nothing else."""
    if _item_of(hint) is not None:
        items = _texts(text)
        return tuple(map(_number, items)) if _item_of(hint) is int else items
    options = typing.get_args(hint) or (hint,)
    if str in options and not (text == "None" and types.NoneType in options):
        return text
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _item_of(hint: Any) -> Any:
    """What a field's tuple holds; None if it is no tuple."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def _number(text: Any) -> Any:
    """The whole number that a text is, or the text."""
    try:
        return int(text) if isinstance(text, str) else text
    except ValueError:  # thousands of digits as well
        return text


def _texts(text: str) -> Any:
    """What a Python literal holds (`"'Wait, what','Hmm'"`), else what commas divide, as it is."""
    if text.startswith(("(", "[", "'", '"')):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
        else:
            return value if isinstance(value, tuple | list) else (value,)
    return tuple(text.split(",")) if text else ()


def read_section(cls: type, values: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """The `cls` that these values make. What is wrong goes to `problems`, one line each."""
    hints = typing.get_type_hints(cls)
    kwargs: dict[str, Any] = {}
    for key, value in values.items():
        path = prefix + key
        if key not in hints:
            problems.append(f"{path} is not a field{nearest(key, hints)}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                kwargs[key] = read_section(hints[key], value, path + ".", problems)
            else:
                problems.append(f"{path}={value!r} must be a section of fields")
        elif dataclasses.is_dataclass(_item_of(hints[key])):
            kwargs[key] = _read_items(_item_of(hints[key]), value, path, problems)
        elif not _has_type(value, hints[key]):
            problems.append(f"{path}={value!r} {_wrong_type(value, hints[key])}")
        else:
            kwargs[key] = _converted(value, hints[key])
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    problems += [f"{prefix}{name} is missing" for name in missing]
    return None if missing else cls(**kwargs)


def _read_items(cls: type, value: Any, path: str, problems: list[str]) -> tuple[Any, ...]:
    """A tuple of sections, each a `cls` or a dict of its fields."""
    what = f"must be a tuple of {cls.__name__}s"
    if not isinstance(value, tuple | list):
        problems.append(f"{path}={value!r} {what}, not {type(value).__name__}")
        return ()
    items = []
    for number, item in enumerate(value):
        fields = (
            {f.name: getattr(item, f.name) for f in dataclasses.fields(cls)}
            if isinstance(item, cls)
            else item
        )
        if isinstance(fields, dict):
            read = read_section(cls, fields, f"{path}[{number}].", problems)
            items += [] if read is None else [read]
        else:
            problems.append(f"{path}[{number}]={item!r} {what}, not {type(item).__name__}")
    return tuple(items)


def _converted(value: Any, hint: Any) -> Any:
    """A list as the tuple and a whole number as the float that its field holds."""
    if _item_of(hint) is not None:
        return tuple(value)
    takes_float = float in (typing.get_args(hint) or (hint,))
    return float(value) if takes_float and value is not None else value


def _wrong_type(value: Any, hint: Any) -> str:
    item_type = _item_of(hint)
    if isinstance(value, Mapping) and typing.get_origin(hint) is Mapping:
        return "must have names of fields"
    if item_type is None:
        want = getattr(hint, "__name__", str(hint))
        return f"must be {want}, not {type(value).__name__}"
    items = {str: "strings", int: "whole numbers"}[item_type]
    if not isinstance(value, tuple | list):
        return f"must be a tuple of {items}, not {type(value).__name__}"
    wrong = next(item for item in value if not _has_type(item, item_type))
    return f"must hold {items} only, not {type(wrong).__name__}"


def _has_type(value: Any, hint: Any) -> bool:
    if (item_type := _item_of(hint)) is not None:
        whole = isinstance(value, tuple | list)
        return whole and all(_has_type(item, item_type) for item in value)
    if typing.get_origin(hint) is not None and not isinstance(hint, types.UnionType):
        named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return named and issubclass(Mapping, typing.get_origin(hint))
    if isinstance(hint, types.UnionType):
        return any(_has_type(value, t) for t in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float and isinstance(value, int):
        return abs(value) <= sys.float_info.max
    return isinstance(value, hint)


def nearest(word: str, words: Iterable[str]) -> str:
    """`: did you mean "x"?` for the closest of the words, else the list of them."""
    words = list(words)
    close = difflib.get_close_matches(word, words, n=1)
    return f': did you mean "{close[0]}"?' if close else f": the choices are {', '.join(words)}"
