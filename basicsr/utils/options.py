"""Option files: YAML with inheritance (`_base_`), command-line changes, and checks that name the nearest valid key."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from basicsr.utils.files import user_path
from basicsr.utils.registry import nearest


class OptionError(ValueError):
    """Something in the options is wrong; the message names the key and the remedy."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as everybody expects, and not the text that YAML 1.1 makes of it."""

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A number; a whole one with an exponent is an int, for `5e3` is how option files write 5000."""
        value = super().construct_yaml_float(node)
        return int(value) if 'e' in node.value.lower() and value.is_integer() else value


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$'), list('-+0123456789')
)
_Loader.add_constructor('tag:yaml.org,2002:float', _Loader.construct_yaml_float)


def parse_value(text: str) -> Any:
    """The YAML value of a text."""
    return yaml.load(text, Loader=_Loader)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section; lists and values are replaced, neither input is touched.

    A section in `changes` that names another `type` replaces the one in `base` whole.
    """
    merged = dict(copy.deepcopy(base))
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value.get('type') in (None, old.get('type')):
            merged[key] = merge(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def load_options(path: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Read an option file.

    Args:
        path: YAML; `_base_` names one file or several, relative to this one, that it builds on.
        changes: `section:key=value` texts (as `--force_yml` takes), laid over the file; the value is YAML.

    Raises:
        OptionError: no such file, no valid YAML, bases in a circle, or a change that cannot be read.
    """
    options = _load(Path(path), ())
    for change in changes:
        keys, equals, value = change.partition('=')
        if not equals:
            raise OptionError(f"'{change}': write section:key=value")
        try:
            given: Any = parse_value(value)
        except yaml.YAMLError as error:
            raise OptionError(f"'{change}': the value is not valid YAML") from error
        options = _changed(options, keys.split(':'), given)
    return _with_home(options)


def _with_home(value: Any) -> Any:
    """The same with paths that begin with `~/` in the home folder."""
    if isinstance(value, Mapping):
        return {key: _with_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return user_path(value) if isinstance(value, str) and value.startswith('~/') else value


def _changed(options: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """`options` with another value at a path of keys; what lies beside it stays, also beside another `type`."""
    key, *deeper = keys
    if not deeper:
        return merge(options, {key: value})
    section = options.get(key)
    return {**options, key: _changed(section if isinstance(section, Mapping) else {}, deeper, value)}


def _load(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in children:
        raise OptionError(f'{path}: _base_ leads back to this file')
    try:
        options = yaml.load(path.read_text(encoding='utf-8'), Loader=_Loader)
    except OSError as error:
        raise OptionError(f'{path}: cannot be read ({error.strerror})') from error
    except yaml.YAMLError as error:
        raise OptionError(f'{path}: not valid YAML: {error}') from error
    if not isinstance(options, dict):
        raise OptionError(f'{path}: an option file is a mapping of keys to values')
    bases = options.pop('_base_', None) or []
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = merge(merged, _load(path.parent / base, (*children, path.resolve())))
    return merge(merged, options)


def drop_nulls(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without keys whose value is null, which so take their defaults; sub-sections too."""
    return {
        key: drop_nulls(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if value is not None
    }


def dump_options(options: Mapping[str, Any]) -> str:
    """The options as YAML, in their order."""
    return yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)


def check_keys(where: str, given: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any] | frozenset[str]) -> None:
    """Every key of `given` is among `known`.

    Raises:
        OptionError: an unknown key; the message names the nearest valid one.
    """
    for key in given:
        if key not in known:
            raise OptionError(f"{where}: unknown key '{key}'{nearest(key, known)}")


def check_values(where: str, given: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Keys and types of a section.

    Args:
        where: the section's name, for messages.
        given: the section.
        kinds: for each key a type or tuple of types, or a mapping for a sub-section. Null is always accepted.

    Raises:
        OptionError: an unknown key or a value of another type.
    """
    check_keys(where, given, kinds)
    for key, value in given.items():
        kind = kinds[key]
        if value is None:
            continue
        if isinstance(kind, Mapping):
            if not isinstance(value, Mapping):
                raise OptionError(f'{where}:{key} must be a section of keys, not {value!r}')
            check_values(f'{where}:{key}', value, kind)
        elif not _is_a(value, kind):
            names = ' or '.join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise OptionError(f'{where}:{key} must be {names}, not {value!r}')


def _is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))
