"""Reference of the options: a JSON schema for editors and a page, both generated from the option table.

    python -m basicsr.models.option_reference --schema options/schema.json --page docs/options.md

An editor with the YAML language server checks an option file that begins with
`# yaml-language-server: $schema=schema.json`.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from basicsr.models.identity_term import IdentityTerm
from basicsr.models.image_losses import ENTRY_OPTIONS
from basicsr.models.option_table import DATASET, SECTIONS, TOP, Option, Table
from basicsr.models.schedule import SCHEDULERS
from basicsr.models.schema import REQUIRED, parameters_of
from basicsr.utils.files import replacing
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

JSON_TYPES = {str: 'string', int: 'integer', float: 'number', bool: 'boolean', list: 'array', dict: 'object'}
Schema = dict[str, Any]


def _type(kind: Any) -> Schema:
    """Return the schema of a type, a tuple of types, or a mapping of types; null is always allowed."""
    if isinstance(kind, Mapping):
        return {'type': ['object', 'null'], 'properties': {k: _type(v) for k, v in kind.items()}} | CLOSED
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return {'type': [*(JSON_TYPES[one] for one in kinds), 'null']}


CLOSED: Schema = {'additionalProperties': False}


def _option(option: Option) -> Schema:
    """Return the schema of an option."""
    schema = _type(option.kind) | {'description': option.meaning}
    limits = {'minimum': option.least, 'exclusiveMinimum': option.above, 'exclusiveMaximum': option.below}
    return schema | {name: value for name, value in limits.items() if value is not None}


def _table(table: Table) -> Schema:
    """Return the schema of a section."""
    return {'type': ['object', 'null'], 'properties': {k: _option(o) for k, o in table.items()}} | CLOSED


def _entry(registry: Registry, extra: Mapping[str, Any] | None = None, given: Sequence[str] = ()) -> Schema:
    """Return the schema of a section that names a registered `type` and its arguments."""
    choices = []
    for name in registry.names():
        parameters = {k: v for k, v in parameters_of(registry.get(name)).items() if k not in given}
        properties: Schema = {'type': {'const': name}} | {key: _argument(value) for key, value in parameters.items()}
        properties |= {key: _type(kind) for key, kind in (extra or {}).items()}
        choices.append({'properties': properties, 'required': ['type']} | CLOSED)
    return {'anyOf': [{'type': 'null'}, *choices]}


def _argument(parameter: inspect.Parameter) -> Schema:
    """Return the schema of a constructor's argument, by its default."""
    default = parameter.default
    if isinstance(default, (bool, int, float, str)):
        return _type(type(default)) | {'default': default}
    return _type(list) if isinstance(default, (tuple, list)) else {}


def _dataset(name: str) -> Schema:
    """Return the schema of a dataset's section."""
    keys = sorted(getattr(DATASET_REGISTRY.get(name), 'OPTION_KEYS', ()))
    properties = {key: _option(DATASET[key]) if key in DATASET else {} for key in keys}
    return {'properties': properties | {'type': {'const': name}}, 'required': ['type']} | CLOSED


def json_schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of option files after their `_base_` files are laid under them."""
    optimizers = sorted(name for name, entry in vars(torch.optim).items() if inspect.isclass(entry))
    optimizer = {'type': ['object', 'null'], 'properties': {'type': {'enum': optimizers}}}
    sections = {name: _table(table) for name, table in SECTIONS.items()}
    losses = ('pixel_opt', 'perceptual_opt', 'gan_opt', 'registration_opt', 'metric_opt')
    identity = {**IdentityTerm.OPTIONS, 'every': int}
    sections['train']['properties'] |= {
        **{name: _entry(LOSS_REGISTRY) for name in losses},
        'identity_opt': _entry(LOSS_REGISTRY, identity),
        'losses': {'type': ['array', 'null'], 'items': _entry(LOSS_REGISTRY, ENTRY_OPTIONS)},
        'optim_g': optimizer,
        'optim_d': optimizer,
        'scheduler': {
            'anyOf': [
                {'type': 'null'},
                *(
                    {'properties': {k: _type(v) for k, v in keys.items()} | {'type': {'const': name}}} | CLOSED
                    for name, keys in SCHEDULERS.items()
                ),
            ]
        },
    }
    metrics = {'type': ['object', 'null'], 'additionalProperties': _entry(METRIC_REGISTRY, given=('img', 'img2'))}
    sections['val']['properties']['metrics'] = metrics
    dataset = {'anyOf': [{'type': 'null'}, *(_dataset(name) for name in DATASET_REGISTRY.names())]}
    networks = {name: _entry(ARCH_REGISTRY) for name in ('network_g', 'network_d', 'network_vqgan')}
    return {
        '$schema': 'https://json-schema.org/draft/2020-12/schema',
        'title': 'Option file of ID-CodeFormer',
        'type': 'object',
        'properties': {key: _option(option) for key, option in TOP.items()}
        | {'model_type': {'enum': MODEL_REGISTRY.names()}}
        | {'_base_': {'type': ['string', 'array'], 'description': 'file or files that this one is laid over'}}
        | {'datasets': {'type': 'object', 'patternProperties': {'^(train|val|test)(_.*)?$': dataset}} | CLOSED}
        | networks
        | sections,
        'anyOf': [{'required': ['_base_']}, {'required': list(REQUIRED)}],
    } | CLOSED


PAGE_HEAD = """# Options of a training

Generated by `python -m basicsr.models.option_reference`; the guide is [train](train.md).
An option file of CodeFormer or BasicSR is read as it is. `_base_` names files that a file is laid over: a section is
laid over the one below; a section of another `type` replaces it, but for networks and datasets, and one with
`_replace_: true` always does. Null means the default. An unknown key is an error
that names the nearest one. `options/schema.json` is the same for editors: begin an option file with
`# yaml-language-server: $schema=schema.json`.
"""


def _default(option: Option) -> str:
    """Return a default for the page."""
    if option.default is None:
        return ''
    return str(option.default).lower() if isinstance(option.default, bool) else str(option.default)


def _kind(kind: Any) -> str:
    """Return a type for the page."""
    if isinstance(kind, Mapping):
        return 'section: ' + ', '.join(f'`{name}`' for name in kind)
    return ' or '.join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,))).replace(
        'dict', 'section'
    )


def reference_page() -> str:
    """Return the page of all keys, in Markdown."""
    lines = PAGE_HEAD.splitlines()
    for name, table in (('', TOP), *SECTIONS.items(), ('datasets', DATASET)):
        lines += [
            '',
            f'## `{name}`' if name else '## Top level',
            '',
            '| key | type | default | meaning |',
            '|---|---|---|---|',
        ]
        for key, option in table.items():
            meaning = option.meaning + (f' ({option.limits})' if option.limits else '')
            lines.append(f'| `{key}` | {_kind(option.kind)} | {_default(option)} | {meaning} |')
    lines += [
        '',
        'Arguments of networks, losses, datasets and metrics are those of their classes:',
        '',
        '| section | types |',
        '|---|---|',
    ]
    for title, registry in (
        ('`model_type`', MODEL_REGISTRY),
        ('`network_g`, `network_d`', ARCH_REGISTRY),
        ('losses', LOSS_REGISTRY),
        ('`datasets`', DATASET_REGISTRY),
        ('`val: metrics`', METRIC_REGISTRY),
    ):
        lines.append(f'| {title} | {", ".join(f"`{name}`" for name in registry.names())} |')
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Write the JSON schema and the reference page of the options.')
    parser.add_argument('--schema', type=Path, help='JSON file to write')
    parser.add_argument('--page', type=Path, help='Markdown file to write')
    args = parser.parse_args(argv)
    texts = {args.schema: json.dumps(json_schema()) + '\n', args.page: reference_page()}
    for path, text in texts.items():
        if path is not None:
            with replacing(path) as partial:
                partial.write_text(text, encoding='utf-8')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
