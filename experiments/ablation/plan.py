"""Plan of an ablation: rows, seeds, and the faces that they are judged on. A file of `plans`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basicsr.metrics.table import EvaluationError, check_metrics
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.options import OptionError, check_values, load_options
from basicsr.utils.registry import nearest

NUMBERS = (int, float, list)
ROW = {
    'stages': list, 'checkpoint': str, 'pictures': str, 'references': (bool, str), 'search': int, 'vary': int,
    'parts': list, 'w': NUMBERS, 'adain': bool, 'output': str,
}  # fmt: skip
SET = {'lq': str, 'bicubic': str, 'reconstruction': str, 'gt': str, 'ref': str, 'w': NUMBERS, 'limit': int}
TOP = {
    'about': str, 'rows': dict, 'baseline': (str, list), 'seeds': list, 'w': NUMBERS, 'adain': bool, 'color_fix': bool,
    'force_yml': list, 'sets': dict, 'metrics': list, 'judge': {'recognizer': str, 'weights': dict},
    'references': {'recognizer': str, 'count': int, 'vary': int},
}  # fmt: skip
STAGE = {'opt': str, 'force_yml': list, 'seed': int}
KINDS = ('stages', 'checkpoint', 'pictures')
PICTURES = ('lq', 'bicubic', 'reconstruction')
REFERENCES = {False: '', True: 'own', 'none': '', 'true': 'own', 'own': 'own', 'wrong': 'wrong'}
OUTPUTS = ('', 'I_warp')
PARTS = {'identity_loss': 'identity loss', 'transformer': 'conditioned Transformer', 'ia_cft': 'IA-CFT'}


class PlanError(IDCodeFormerError, ValueError):
    """A plan that cannot be carried out; the message names the file and the key."""


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        opt: option file.
        force_yml: changes to it, `section:key=value`.
        seed: in place of the run's; so a stage can be the same one for all seeds.
    """

    opt: Path
    force_yml: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Row:
    """One configuration: trained in stages, or given as a checkpoint, or a set's own pictures.

    Attributes:
        name: in tables.
        stages: trainings one after another; the last one's network is judged.
        checkpoint: a trained network instead.
        pictures: the folder of each set that is judged as it is, of `PICTURES`, without a network.
        references: whose photographs the network is told of: '' of nobody, 'own', or 'wrong' for another person's. Such
            a row is judged on the sets that have references.
        vary: in place of the plan's, see `Plan.references`; None for that.
        search: steps of a search for codes that show those people, see `CodeSearch`; a network that cannot be told has
            them from this alone.
        parts: what a checkpoint was trained with, of `PARTS`; of stages it is read off their options.
        w: fidelity weights; none means those of the set.
        adain: give the code features the statistics of the input's, as inference does.
        output: what is judged of a CodeFormer++ in place of its result: 'I_warp', the registered generated face.
    """

    name: str
    stages: tuple[Stage, ...]
    checkpoint: Path | None
    pictures: str
    references: str
    search: int
    vary: int | None
    parts: tuple[str, ...] | None
    w: tuple[float, ...]
    adain: bool
    output: str = ''


@dataclass(frozen=True)
class FaceSet:
    """Faces to judge on, matched by their path below the folders.

    Attributes:
        name: in tables.
        folders: by role, `lq`, `gt` and perhaps `bicubic`, `reconstruction` (what stage I makes of `gt`) and `ref`.
        w: fidelity weights.
        limit: only so many, at even steps.
    """

    name: str
    folders: Mapping[str, Path]
    w: tuple[float, ...]
    limit: int | None


@dataclass(frozen=True)
class Plan:
    """A file of `plans`.

    Attributes:
        rows: by name, in order.
        baselines: the rows that the others are compared with.
        seeds: of the trainings.
        color_fix: restored faces keep the colours of the input, see `FaceRestorer`.
        force_yml: changes to every stage whose option file has the key.
        sets: by name, in order.
        metrics: of the table of metrics.
        judge: `recognizer` of the identity scores, and `weights` of other metrics.
        references: the `recognizer` that networks were trained with, `count` of references a face, and `vary`, how many
            references a face is restored under, one at a time, for the identity variance.
        about: Markdown that stands above the tables.
    """

    rows: Mapping[str, Row]
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    color_fix: bool
    force_yml: tuple[str, ...]
    sets: Mapping[str, FaceSet]
    metrics: tuple[str, ...]
    judge: Mapping[str, Any]
    references: Mapping[str, Any]
    about: str = ''


def _numbers(value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, (int, float)) and 0 <= number <= 1 for number in numbers):
        raise PlanError(f'w: {value}: a number from 0 to 1, or a list of such')
    return tuple(float(number) for number in numbers)


def _stage(given: Any) -> Stage:
    section = given if isinstance(given, dict) else {'opt': given}
    check_values('stages', section, STAGE)
    if not section.get('opt'):
        raise PlanError("stages: 'opt', the option file, is missing")
    return Stage(Path(section['opt']), tuple(section.get('force_yml') or ()), section.get('seed'))


def _row(name: str, section: Mapping[str, Any], adain: bool) -> Row:
    check_values(f'rows:{name}', section, ROW)
    kinds = [kind for kind in KINDS if section.get(kind)]
    if len(kinds) != 1:
        raise PlanError(f'rows:{name}: one of {", ".join(KINDS)} is needed, not {" and ".join(kinds) or "none"}')
    references = section.get('references') or False
    if references not in REFERENCES:
        raise PlanError(f"rows:{name}:references: '{references}'; true, wrong or none")
    if section.get('pictures', 'lq') not in PICTURES:
        raise PlanError(f"rows:{name}:pictures: '{section['pictures']}'; {', '.join(PICTURES)}")
    search = section.get('search') or 0
    if search < 0 or (search and not REFERENCES[references]):
        raise PlanError(f'rows:{name}:search: {search}; steps of a search, 0 or more, which needs references')
    if section.get('vary') is not None:
        _check_vary(f'rows:{name}', section['vary'])
    parts = section.get('parts')
    for part in parts or ():
        if part not in PARTS:
            raise PlanError(f"rows:{name}:parts: unknown '{part}'{nearest(part, PARTS)}")
    output = section.get('output', '')
    if output not in OUTPUTS:
        raise PlanError(f"rows:{name}:output: unknown '{output}'{nearest(output, OUTPUTS)}")
    return Row(
        name=name,
        stages=tuple(_stage(stage) for stage in section.get('stages') or ()),
        checkpoint=Path(section['checkpoint']) if section.get('checkpoint') else None,
        pictures=section.get('pictures') or '',
        references=REFERENCES[references],
        search=search,
        vary=section.get('vary'),
        parts=None if parts is None else tuple(parts),
        w=_numbers(section['w']) if section.get('w') is not None else (),
        adain=section.get('adain', adain),
        output=output,
    )


def _check_vary(where: str, vary: int) -> None:
    if vary == 1 or vary < 0:
        raise PlanError(f'{where}: vary is 0 (not measured), or 2 or more')


def _set(name: str, section: Mapping[str, Any], w: Any) -> FaceSet:
    check_values(f'sets:{name}', section, SET)
    if not re.fullmatch(r'[\w.-]+', name):
        raise PlanError(f"sets:{name}: a set's name is of letters, digits, '.', '_' and '-'; files are named after it")
    for role in ('lq', 'gt'):
        if not section.get(role):
            raise PlanError(f"sets:{name}: '{role}', a folder, is missing")
    folders = {role: Path(section[role]) for role in (*PICTURES, 'gt', 'ref') if section.get(role)}
    own = section.get('w')
    return FaceSet(name, folders, _numbers(w if own is None else own), section.get('limit'))


def load_plan(path: str | Path, changes: Sequence[str] = ()) -> Plan:
    """Read a plan.

    Args:
        path: YAML; `_base_` works as in option files.
        changes: `section:key=value` texts laid over it.

    Raises:
        PlanError: no such file, or something in it is wrong.
    """
    try:
        opt = load_options(path, changes)
        check_values('plan', opt, TOP)
        for key in ('rows', 'sets', 'metrics'):
            if not opt.get(key):
                raise PlanError(f"'{key}' is missing")
        w, adain = opt.get('w', 0.5), opt.get('adain', True)
        rows = {str(name): _row(str(name), row, adain) for name, row in opt['rows'].items() if row}
        sets = {str(name): _set(str(name), section, w) for name, section in opt['sets'].items() if section}
        metrics = check_metrics(opt['metrics'])
        given = opt.get('baseline') or next(iter(rows))
        baselines = tuple(map(str, given if isinstance(given, list) else [given]))
        for baseline in baselines:
            if baseline not in rows:
                raise PlanError(f"baseline: no row '{baseline}'{nearest(baseline, rows)}")
        references = {'recognizer': None, 'count': 1, 'vary': 0} | (opt.get('references') or {})
        if references['count'] < 1:
            raise PlanError('references: count is 1 or more')
        _check_vary('references', references['vary'])
        judge = {'recognizer': None, 'weights': {}} | (opt.get('judge') or {})
        _check_references(rows, sets, references, judge)
    except (PlanError, OptionError, EvaluationError) as error:
        raise PlanError(f'{path}: {error}') from error
    return Plan(
        rows=rows,
        baselines=baselines,
        seeds=tuple(int(seed) for seed in opt.get('seeds') or [0]),
        color_fix=opt.get('color_fix', False),
        force_yml=tuple(opt.get('force_yml') or ()),
        sets=sets,
        metrics=tuple(metrics),
        judge=judge,
        references=references,
        about=opt.get('about') or '',
    )


def _check_references(
    rows: Mapping[str, Row], sets: Mapping[str, FaceSet], references: Mapping[str, Any], judge: Mapping[str, Any]
) -> None:
    if (references['vary'] or any(row.vary for row in rows.values())) and not judge['recognizer']:
        raise PlanError('vary measures the identity variance, which needs judge:recognizer')
    told = next((row.name for row in rows.values() if row.references), None)
    if told is None:
        return
    if not references['recognizer']:
        raise PlanError(f"references:recognizer is missing; row '{told}' is told of references, by that recognizer")
    if not any('ref' in face_set.folders for face_set in sets.values()):
        raise PlanError(f"sets: none has 'ref', the folder of references, which row '{told}' needs")
