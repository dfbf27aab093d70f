"""Schema of option files. Arguments of networks, losses and optimisers are read off their constructors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch

from basicsr import archs, data, losses, metrics, models, recognition
from basicsr.models.identity_term import IdentityTerm
from basicsr.models.image_losses import ENTRY_OPTIONS, arguments_of
from basicsr.models.option_table import DATASET, NUMBER, SECTIONS, TOP, kinds
from basicsr.models.schedule import SCHEDULERS
from basicsr.utils.options import OptionError, check_keys, check_values, shown
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
    nearest,
)

PACKAGES = (archs, recognition, data, losses, metrics, models)
"""Imported so that their registries are filled."""

PAIRS = ('PairedImageDataset', 'PairedPhotoDataset', 'PairedReferenceDataset')
REQUIRED = ('name', 'model_type', 'datasets', 'network_g', 'train')


def check_options(opt: Mapping[str, Any]) -> None:
    """Every key is known, every value of its type, and what a run cannot do without is there.

    Raises:
        OptionError: not so; the message names the key and the nearest valid one.
    """
    check_values('options', opt, kinds(TOP))
    for key in REQUIRED:
        if not opt.get(key):
            raise OptionError(f"options: '{key}' is missing")
    _check_name('name', opt['name'])
    for name in opt['datasets']:
        _check_name('datasets', name)
    if opt['model_type'] not in MODEL_REGISTRY:
        raise OptionError(
            f'model_type: unknown {shown(opt["model_type"])}{nearest(opt["model_type"], MODEL_REGISTRY.names())}'
        )
    for name, table in SECTIONS.items():
        check_values(name, opt.get(name) or {}, kinds(table))
    for name in ('network_g', 'network_d', 'network_vqgan'):
        if opt.get(name):
            _check_entry(name, opt[name], ARCH_REGISTRY)
    for name, section in opt['datasets'].items():
        if section is None:
            continue
        _check_dataset(f'datasets:{name}', name, section)
    if ((opt.get('logger') or {}).get('wandb') or {}).get('project'):
        raise OptionError('logger:wandb:project: runs are logged to TensorBoard only; set it to null')
    train = opt['train']
    if not train.get('total_iter'):
        raise OptionError("train: 'total_iter' is missing")
    _check_losses_are_read(train, opt['model_type'])
    for name in ('pixel_opt', 'perceptual_opt', 'gan_opt', 'registration_opt', 'metric_opt'):
        if train.get(name):
            _check_entry(f'train:{name}', train[name], LOSS_REGISTRY)
    for number, entry in enumerate(train.get('losses') or ()):
        _check_listed_loss(f'train:losses:{number}', entry)
    if train.get('identity_opt'):
        _check_identity(train['identity_opt'], opt['model_type'])
    for name in ('optim_g', 'optim_d'):
        if train.get(name):
            _check_optimizer(f'train:{name}', train[name])
    scheduler = train.get('scheduler')
    if scheduler:
        kind = str(scheduler.get('type', ''))
        if kind not in SCHEDULERS:
            raise OptionError(f'train:scheduler: unknown type {shown(kind)}{nearest(kind, SCHEDULERS)}')
        check_values('train:scheduler', scheduler, SCHEDULERS[kind])
        _check_scheduler(scheduler)
    _check_limits(opt)
    for name, section in ((opt.get('val') or {}).get('metrics') or {}).items():
        if section is not None:
            _check_entry(f'val:metrics:{name}', section, METRIC_REGISTRY, given=('img', 'img2'))
    _check_best(opt)


def _check_name(where: str, name: str) -> None:
    """Raise OptionError where a name cannot be that of a folder or file of the run, or leads out of its place."""
    if name in ('.', '..') or not name.isprintable() or set(name) & set('/\\') or len(name.encode()) > 200:
        raise OptionError(f"{where}: {shown(name)} names a folder of results; use a plain name, without '/' and '..'")


def parameters_of(entry: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments of a constructor, with those of its base class where it passes on what it does not know."""
    own = dict(inspect.signature(entry).parameters)
    passed_on = [name for name, parameter in own.items() if parameter.kind is parameter.VAR_KEYWORD]
    for name in passed_on:
        del own[name]
    return {**parameters_of(entry.__mro__[1]), **own} if passed_on else own


def _check_entry(where: str, section: Mapping[str, Any], registry: Registry, given: tuple[str, ...] = ()) -> None:
    if not isinstance(section, Mapping):
        raise OptionError(f'{where}: a section with a type, not {shown(section)}')
    kind = str(section.get('type'))
    if kind not in registry:
        raise OptionError(f'{where}: unknown type {shown(kind)}{nearest(kind, registry.names())}')
    parameters = parameters_of(registry.get(kind))
    check_keys(where, section, ['type', *(name for name in parameters if name not in given)])
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in section and name not in given:
            raise OptionError(f"{where}: '{name}' is missing")
    defaults = {name: parameter.default for name, parameter in parameters.items() if name in section}
    types = {name: type(value) for name, value in defaults.items() if isinstance(value, (bool, int, float, str))}
    types |= {name: list for name, value in defaults.items() if isinstance(value, (tuple, list))}
    check_values(where, {name: section[name] for name in types}, types)
    for name, kind in types.items():
        if kind is list and defaults[name]:
            _check_list(f'{where}:{name}', section[name], str if isinstance(defaults[name][0], str) else NUMBER)


def _check_list(where: str, values: Any, kind: type | tuple[type, ...]) -> None:
    """Raise OptionError where an item of a list is of another type."""
    for value in values or ():
        if isinstance(value, bool) or not isinstance(value, kind):
            raise OptionError(f'{where}: {shown(value)} is no {"text" if kind is str else "number"}')


def _check_losses_are_read(train: Mapping[str, Any], model_type: str) -> None:
    """Check that the stage computes every loss that is asked for."""
    read = MODEL_REGISTRY.get(model_type).LOSS_SECTIONS
    stages = {name: MODEL_REGISTRY.get(name).LOSS_SECTIONS for name in MODEL_REGISTRY.names()}
    for key in sorted(set().union(*stages.values()) - read):
        if train.get(key):
            others = ', '.join(name for name, sections in stages.items() if key in sections)
            raise OptionError(
                f'train:{key}: {model_type} does not compute this loss (it is for {others}); remove it. Losses on '
                'pictures are added to any stage by the list train:losses'
            )


def _check_listed_loss(where: str, entry: Any) -> None:
    """Check an entry of `train:losses`: its own keys, and the arguments of the loss."""
    if isinstance(entry, Mapping) and entry.get('type') == 'GANLoss':
        raise OptionError(f'{where}: GANLoss judges no pair of pictures; give train:gan_opt and network_d')
    known = isinstance(entry, Mapping) and str(entry.get('type')) in LOSS_REGISTRY
    _check_entry(where, arguments_of(entry) if known else entry, LOSS_REGISTRY)
    check_values(where, {key: entry[key] for key in entry if key in ENTRY_OPTIONS}, ENTRY_OPTIONS)


def _check_identity(section: Mapping[str, Any], model_type: str) -> None:
    """Check the loss's own arguments, and from stage II on those of its way through the codes."""
    ways = {} if model_type in ('VQGANModel', 'CodeFormerPPModel') else IdentityTerm.OPTIONS
    check_values('train:identity_opt', {name: section[name] for name in section if name in ways}, ways)
    _check_entry('train:identity_opt', {k: v for k, v in section.items() if k not in ways}, LOSS_REGISTRY)


def _check_dataset(where: str, name: str, section: Mapping[str, Any]) -> None:
    if name.split('_')[0] not in ('train', 'val', 'test'):
        raise OptionError(f"datasets: '{name}'; the sections are train, val and test")
    if not isinstance(section, Mapping):
        raise OptionError(f'{where}: a section with a type, not {shown(section)}')
    kind = str(section.get('type'))
    if kind not in DATASET_REGISTRY:
        raise OptionError(f'{where}: unknown type {shown(kind)}{nearest(kind, DATASET_REGISTRY.names())}')
    dataset = cast(type, DATASET_REGISTRY.get(kind))
    if name.startswith(('val', 'test')) and not issubclass(dataset, data.PairedImageDataset):
        raise OptionError(f'{where}: validation compares pairs; use {" or ".join(PAIRS)} (id-codeformer data pairs)')
    if not hasattr(dataset, 'OPTION_KEYS'):
        raise OptionError(f'{where}: {kind} does not say which keys it has; give it OPTION_KEYS (CONTRIBUTING.md)')
    check_keys(where, section, dataset.OPTION_KEYS)
    check_values(where, {key: value for key, value in section.items() if key in DATASET}, kinds(DATASET))
    for key, value in section.items():
        if key in DATASET and DATASET[key].kind is list:
            _check_list(f'{where}:{key}', value, str if key == 'kernel_list' else NUMBER)


def _check_scheduler(section: Mapping[str, Any]) -> None:
    needed = 'periods' if section['type'] == 'CosineAnnealingRestartLR' else 'milestones'
    if not section.get(needed):
        raise OptionError(f"train:scheduler: '{needed}' is missing")
    if not 0 <= (section.get('eta_min') or 0) < 1:
        raise OptionError(
            f'train:scheduler: eta_min is a learning rate from 0 to below 1, not {shown(section["eta_min"])}'
        )
    if not 0 < (section.get('gamma') or 0.1) <= 1:
        raise OptionError(f'train:scheduler: gamma must be above 0 and at most 1, not {shown(section["gamma"])}')
    for key in ('milestones', 'periods', 'restart_weights'):
        _check_list(f'train:scheduler:{key}', section.get(key), NUMBER)
    if min(section.get('periods') or [1]) <= 0:
        raise OptionError('train:scheduler: periods are numbers of iterations, above 0')
    weights = section.get('restart_weights')
    if weights and len(weights) != len(section['periods']):
        raise OptionError('train:scheduler: restart_weights and periods must be of one length')


def _check_limits(opt: Mapping[str, Any]) -> None:
    """Raise OptionError for a number outside the range of its key."""
    for name, table in (('', TOP), *SECTIONS.items()):
        section = opt.get(name) or {} if name else opt
        for key, option in table.items():
            value = section.get(key)
            if option.limits and value is not None and not option.allows(value):
                place = f'{name}:{key}' if name else key
                raise OptionError(f'{place} must be {option.limits}, not {shown(value)}')


def _check_best(opt: Mapping[str, Any]) -> None:
    val = opt.get('val') or {}
    best, metrics = val.get('best') or {}, list(val.get('metrics') or {})
    datasets = [name for name, section in opt['datasets'].items() if name.startswith('val') and section]
    for key, known in (('metric', metrics), ('dataset', datasets)):
        if best.get(key) and best[key] not in known:
            raise OptionError(f"val:best:{key}: there is no '{best[key]}'{nearest(best[key], known)}")


def _check_optimizer(where: str, section: Mapping[str, Any]) -> None:
    """Check the type, its arguments, and whether it makes a step with them."""
    kind = str(section.get('type', ''))
    known = [name for name, entry in vars(torch.optim).items() if inspect.isclass(entry)]
    if kind not in known:
        raise OptionError(f'{where}: unknown type {shown(kind)}{nearest(kind, known)}')
    parameters = inspect.signature(getattr(torch.optim, kind)).parameters
    check_keys(where, section, ['type', *(name for name in parameters if name != 'params')])
    lr = section.get('lr')
    if not isinstance(lr, NUMBER) or not 0 < lr < 1:
        raise OptionError(f'{where}: lr must be a number between 0 and 1, not {shown(lr)}')
    weight = torch.nn.Parameter(torch.zeros(2, 2, 1, 1))
    weight.grad = torch.zeros_like(weight)
    try:
        getattr(torch.optim, kind)([weight], **{key: value for key, value in section.items() if key != 'type'}).step()
    except (TypeError, ValueError, LookupError, ArithmeticError, NotImplementedError) as error:
        raise OptionError(f'{where}: {kind} does not work with these arguments ({error})') from error
