"""Option files: YAML with inheritance (`_base_`), command-line changes, and checks that name the nearest valid key."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import user_path
from basicsr.utils.registry import nearest

LARGEST_FILE = 1 << 20  # bytes
MOST_FILES = 64  # that build on one another
MOST_ENTRIES = 100_000
REPLACE = '_replace_'
DEEPEST = 32
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Errors of PyYAML: its own for wrong syntax, others for values of a stated kind, such as `!!int x`."""


class OptionError(IDCodeFormerError, ValueError):
    """Something in the options is wrong; the message names the key and the remedy."""


RENAMED: Mapping[str, str] = {
    'codebook_average': 'codebook_ema',
    'mistaken': 'mismatch_prob',
    'reach': 'grad_to',
    'recogniser': 'recognizer',
    'restart_under': 'dead_code_threshold',
    'through_fusion': 'grad_through_skips',
}
"""Former names of keys, and other spellings, which are read too."""


def shown(value: object) -> str:
    """Return a value for a message: in one line, and not too long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '…'


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as everybody expects, and not the text that YAML 1.1 makes of it."""

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Return a number; a whole one with an exponent is an int, for `5e3` is how option files write 5000."""
        value = super().construct_yaml_float(node)
        return int(value) if 'e' in node.value.lower() and value.is_integer() else value


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$'), list('-+0123456789')
)
_Loader.add_constructor('tag:yaml.org,2002:float', _Loader.construct_yaml_float)


def parse_value(text: str) -> Any:
    """Return the YAML value of a text."""
    return yaml.load(text, Loader=_Loader)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any], section: str = '') -> dict[str, Any]:
    """Lay `changes` over `base`, section by section; lists and values are replaced, neither input is touched.

    A section of another `type` replaces the one in `base`, but for networks and datasets, which often extend one
    another. `_replace_: true` in a section replaces what is below in any case.

    Args:
        base: options.
        changes: to lay over them.
        section: the key of `base` in the options that hold it.
    """
    merged = dict(copy.deepcopy(base))
    for key, value in changes.items():
        old = merged.get(key)
        if not isinstance(value, Mapping):
            merged[key] = copy.deepcopy(value)
            continue
        below = old if isinstance(old, Mapping) and not value.get(REPLACE) else {}
        extends = key.startswith('network_') or section == 'datasets'
        keeps = extends or value.get('type') in (None, below.get('type'))
        merged[key] = merge(below if keeps else {}, value, key)
    merged.pop(REPLACE, None)
    return merged


def load_options(path: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Read an option file.

    Args:
        path: YAML; `_base_` names one file or several, relative to this one, that it builds on.
        changes: `section:key=value` texts (as `--force_yml` takes), laid over the file; the value is YAML.

    Raises:
        OptionError: no such file, no valid YAML, bases in a circle, or a change that cannot be read.
    """
    options = _load(Path(path), (), [])
    for change in changes:
        keys, equals, text = change.partition('=')
        if not equals or keys.count(':') > DEEPEST:
            raise OptionError(f'{shown(change)}: write section:key=value')
        path_of_keys = [RENAMED.get(key, key) for key in keys.split(':')]
        options = _changed(options, path_of_keys, with_current_names(_parse(text, shown(change)), shown(change)))
    return _with_home(options)


def _with_home(value: Any) -> Any:
    """Return the same with paths that begin with `~/` in the home folder."""
    if isinstance(value, Mapping):
        return {key: _with_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return user_path(value) if isinstance(value, str) and value.startswith('~/') else value


def _parse(text: str, source: str) -> Any:
    """Parse YAML of ordinary size with texts as keys and numbers that fit 64 bits.

    Raises:
        OptionError: it is something else; the message begins with `source`.
    """
    try:
        value = parse_value(text)
    except NOT_YAML as error:
        raise OptionError(f'{source}: not valid YAML ({" ".join(str(error).split())[:300]})') from error
    entries, left = [(value, 0)], MOST_ENTRIES
    while entries:
        entry, depth = entries.pop()
        left -= 1
        if depth > DEEPEST or left < 0:
            raise OptionError(f'{source}: nested more than {DEEPEST} deep, or more than {MOST_ENTRIES} entries')
        if isinstance(entry, Mapping):
            odd = next((key for key in entry if not isinstance(key, str)), None)
            if odd is not None or None in entry:
                raise OptionError(f'{source}: keys are texts, not {shown(odd)}')
            entries += [(item, depth + 1) for pair in entry.items() for item in pair]
        elif isinstance(entry, (list, tuple, set)):
            entries += [(item, depth + 1) for item in entry]
        elif isinstance(entry, str) and '\0' in entry:
            raise OptionError(f'{source}: NUL in {shown(entry)}')
        elif isinstance(entry, int) and abs(entry) >= 1 << 63:
            raise OptionError(f'{source}: a whole number of more than 64 bits')
        elif isinstance(entry, float) and not math.isfinite(entry):
            raise OptionError(f'{source}: {entry} is no number to compute with')
    return value


def with_current_names(value: Any, source: str) -> Any:
    """Return options with the present names of keys in place of those in `RENAMED`, sub-sections too.

    Raises:
        OptionError: a section has a key under both names.
    """
    if isinstance(value, list):
        return [with_current_names(item, source) for item in value]
    if not isinstance(value, dict):
        return value
    for old in RENAMED.keys() & value.keys():
        if RENAMED[old] in value:
            raise OptionError(f"{source}: '{old}' is the former name of '{RENAMED[old]}'; give one of them")
    return {RENAMED.get(key, key): with_current_names(item, source) for key, item in value.items()}


def _changed(options: Mapping[str, Any], keys: Sequence[str], value: Any, section: str = '') -> dict[str, Any]:
    """`options` with another value at a path of keys; what lies beside it stays, also beside another `type`."""
    key, *deeper = keys
    if not deeper:
        return merge(options, {key: value}, section)
    below = options.get(key)
    return {**options, key: _changed(below if isinstance(below, Mapping) else {}, deeper, value, key)}


def _load(path: Path, children: tuple[Path, ...], read: list[Path]) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise OptionError(f'{path}: no such file')
        own = path.resolve()
        if own in children:
            raise OptionError(f'{path}: _base_ leads back to this file')
        read.append(own)
        if len(read) > MOST_FILES or path.stat().st_size > LARGEST_FILE:
            raise OptionError(f'{path}: more than {MOST_FILES} files build on one another, or it is above 1 MiB')
        text = path.read_text(encoding='utf-8')
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise OptionError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error})') from error
    except UnicodeDecodeError as error:
        raise OptionError(f'{path}: not a text in UTF-8 (byte {error.start})') from error
    options = _parse(text, str(path))
    if not isinstance(options, dict):
        raise OptionError(f'{path}: an option file is a mapping of keys to values')
    bases = options.pop('_base_', None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise OptionError(f'{path}: _base_ is the name of a file, or a list of such, not {shown(bases)}')
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, _load(path.parent / base, (*children, own), read))
    return merge(merged, with_current_names(options, str(path)))


def drop_nulls(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without keys whose value is null, which so take their defaults; sub-sections too."""
    return {
        key: drop_nulls(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if value is not None
    }


def dump_options(options: Mapping[str, Any]) -> str:
    """Return the options as YAML, in their order."""
    return yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)


def check_keys(where: str, given: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any] | frozenset[str]) -> None:
    """Every key of `given` is among `known`.

    Raises:
        OptionError: an unknown key; the message names the nearest valid one.
    """
    for key in given:
        if key not in known:
            raise OptionError(f'{where}: unknown key {shown(key)}{nearest(key, known)}')


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
                raise OptionError(f'{where}:{key} must be a section of keys, not {shown(value)}')
            check_values(f'{where}:{key}', value, kind)
        elif not _is_a(value, kind):
            names = ' or '.join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise OptionError(f'{where}:{key} must be {names}, not {shown(value)}')


def _is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))
