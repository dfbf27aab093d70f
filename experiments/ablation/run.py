"""Train and judge the rows of an ablation, one after another, each in a process of its own.

    python scripts/run_ablation.py --plan experiments/ablation/plans/small.yml --out results/ablation

A plan names rows (option files of the stages, or a checkpoint), seeds, and the faces to judge on; README.md
beside this file describes it. Stages with equal options are trained once. Started again, what is done is skipped
(unless pictures, checkpoint or judge have changed), what was begun goes on, and what failed is tried again; a row that
fails leaves its reason, and the others go on.

Written are OUT/results.csv (a line for each row, set, w and seed), OUT/results.md (the tables), OUT/results_*.svg
(identity histograms, identity against quality), OUT/results_differences.csv, OUT/faces_*.png (what the rows make of the
same faces), and below OUT/rows/ the restored faces with a report for each line. Trained weights are in experiments/.
The exit code is 1 where something failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from basicsr.cli.arguments import ArgumentParser
from basicsr.metrics.pictures import Folder
from basicsr.metrics.table import EvaluationError
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.files import InUseError, at_even_steps, lock, write_text
from basicsr.utils.image import imwrite
from basicsr.utils.logger import environment
from basicsr.utils.memory import keep_freed_memory
from basicsr.utils.registry import nearest
from experiments.ablation.faces import faces_sheet
from experiments.ablation.judge import Job, run_job
from experiments.ablation.plan import FaceSet, Plan, PlanError, Row, load_plan
from experiments.ablation.results import DONE, FAILED, Result, Results, key_of, write_results
from experiments.ablation.stages import (
    ROOT,
    FailedError,
    Trainer,
    Training,
    check_shared,
    parts_of,
    run_process,
    trainings_of,
)
from experiments.ablation.tables import write_tables


def _slug(*parts: object) -> str:
    """Return a file name of texts."""
    return re.sub(r'[^\w.-]+', '_', '_'.join(str(part) for part in parts))


def _figure(value: float) -> str:
    return f'{value:.6g}'


def _digest(place: str | None) -> str:
    """Return the sum of a file, or of a folder with its sub-folders; '' for neither (a name that says it all)."""
    if not place or not Path(place).exists():
        return ''
    if Path(place).is_file():
        return sha256_of(place)
    files = sorted(path for path in Path(place).rglob('*') if path.is_file())
    listing = [(path.relative_to(place).as_posix(), sha256_of(path)) for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


class Ablation:
    """The work of a plan.

    Args:
        plan: what is to be done.
        out: where to.
        device: of the judging.
    """

    def __init__(self, plan: Plan, out: Path, device: str) -> None:
        self.plan, self.out, self.device = plan, out, device
        self.results = Results(out / 'results.csv')
        self.trainer = Trainer(out)
        self.digest = cache(_digest)  # pictures are not to change while they are judged
        known = environment()
        self.about = {'commit': (known['commit'] or 'unknown')[:12], 'torch': known['torch']}
        self.about |= {'platform': known['platform']}

    def folder(self, result: Result) -> Path:
        """Return the folder of a result's restored faces and report."""
        return self.out / 'rows' / _slug(*key_of(result))

    def run(self, rows: Sequence[str], seeds: Sequence[int]) -> int:
        """All rows with all seeds; how many results failed."""
        failed = 0
        for seed in seeds:
            for name in rows:
                row = self.plan.rows[name]
                if row.stages or seed == seeds[0]:  # what is not trained here does not depend on the seed
                    failed += self._run(row, seed)
        return failed

    def _run(self, row: Row, seed: int) -> int:
        trainings = trainings_of(row, seed, self.plan.force_yml) if row.stages else []
        try:
            for training in trainings:
                self.trainer.train(training, row.name, seed)
            checkpoint = trainings[-1].checkpoint if trainings else row.checkpoint
            if checkpoint is not None and not checkpoint.is_file():
                raise FailedError(f'{checkpoint}: no such file')
        except FailedError as error:
            lines = list(self._lines(row, seed, trainings, None))
            for _, line in lines:
                self._put({**line, 'status': FAILED, 'reason': str(error)})
            return len(lines)
        work = [(job, line) for job, line in self._lines(row, seed, trainings, checkpoint) if not self._is_done(line)]
        failed = 0
        while work:
            failed += self._judge(row, seed, work)
        return failed

    def _is_done(self, line: Result) -> bool:
        return self.results.is_done(line) and (self.folder(line) / 'per_image.csv').is_file()

    def _lines(
        self, row: Row, seed: int, trainings: Sequence[Training], checkpoint: Path | None
    ) -> Iterator[tuple[Job, Result]]:
        """Yield the jobs of a row, with the line of the results so far."""
        options = [training.options for training in trainings]
        data = [Path(entry['datasets']['train']['dataroot_gt']).name for entry in options]
        fixed = {
            'seed': str(seed if trainings else 0),
            'references': row.references,
            'parts': ';'.join(parts_of(trainings) if trainings else row.parts or ()),
            'data': '+'.join(data),
            'iterations': '+'.join(str(entry['train']['total_iter']) for entry in options),
            'train_seconds': _figure(self.trainer.seconds(trainings)) if trainings else '',
            'checkpoint': checkpoint.name if checkpoint else row.pictures,
            'sha256': sha256_of(checkpoint)[:16] if checkpoint else '',
            'judge': Path(self.plan.judge['recognizer'] or '').stem,
            **self.about,
        }
        for face_set in self.plan.sets.values():
            if row.references and 'ref' not in face_set.folders:
                continue
            for w in [0.0] if row.pictures else row.w or face_set.w:
                line = {'row': row.name, 'set': face_set.name, 'w': '' if row.pictures else f'{w:g}', **fixed}
                job = self._job(row, face_set, w, checkpoint, self.folder(line))
                stated = {**vars(job), 'checkpoint': line['sha256'], 'device': '', 'out': ''}
                if not job.output:
                    del stated['output']  # fingerprints stay those of earlier results
                judge = (job.judge['recognizer'], *job.judge['weights'].values())
                contents = [self.digest(place) for place in (*job.folders.values(), job.recognizer, *judge)]
                text = json.dumps({**stated, 'limit': face_set.limit, 'contents': contents}, sort_keys=True)
                yield job, {**line, 'fingerprint': hashlib.sha256(text.encode()).hexdigest()[:16]}

    def _job(self, row: Row, face_set: FaceSet, w: float, checkpoint: Path | None, out: Path) -> Job:
        folders = dict(face_set.folders)
        if row.pictures and row.pictures not in folders:
            raise PlanError(f"sets:{face_set.name}: '{row.pictures}' is missing; row '{row.name}' judges it")
        folders['lq'] = folders[row.pictures or 'lq']
        folders = {role: path for role, path in folders.items() if role in ('lq', 'gt', 'ref')}
        references = self.plan.references
        vary = references['vary'] if row.vary is None else row.vary
        return Job(
            label=row.name,
            checkpoint=str(checkpoint or ''),
            folders={role: str(folder) for role, folder in folders.items()},
            w=w,
            adain=row.adain,
            color_fix=self.plan.color_fix,
            references=row.references,
            search=row.search,
            recognizer=references['recognizer'] if row.references else None,
            count=references['count'] if row.references else 0,
            vary=vary if row.references else 0,
            metrics=list(self.plan.metrics),
            judge=self.plan.judge,
            device=self.device,
            out=str(out),
            output=row.output,
        )

    def _judge(self, row: Row, seed: int, work: list[tuple[Job, Result]]) -> int:
        """Restore and judge in another process; what was tried is taken off `work`; how much failed."""
        files = [self._prepare(job, line) for job, line in work]
        log = self.out / 'logs' / f'{_slug(row.name, seed)}.log'
        sets = ', '.join(dict.fromkeys(line['set'] for _, line in work))
        print(f'row {row.name}, seed {seed}: judging on {sets} (what it says is in {log})', flush=True)
        _, reason = run_process(
            [sys.executable, str(ROOT / 'scripts' / 'run_ablation.py'), '--job', *map(str, files)], log
        )
        failed = 0
        while work:
            line = work.pop(0)[1]
            file = self.folder(line) / 'result.json'
            result = (
                json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {'error': reason or 'no result'}
            )
            if 'error' in result:
                self._put({**line, 'status': FAILED, 'reason': f'judging: {result["error"]}'})
                failed += 1
            else:
                self._put({**line, **_figures(result)})
            if not file.is_file():
                break  # the process ended here; the rest needs another
        return failed

    def _prepare(self, job: Job, line: Result) -> Path:
        """Return the file of a job, in an empty folder."""
        out = Path(job.out)
        if out.exists():
            shutil.rmtree(out)
        limit = self.plan.sets[line['set']].limit
        if limit:
            job = replace(job, folders=_fewer(job.folders, limit, out / 'chosen'))
        job.save(out / 'job.json')
        return out / 'job.json'

    def _put(self, line: Result) -> None:
        self.results.put(line)
        if line['status'] == FAILED:
            print(f'row {line["row"]}, seed {line["seed"]}: failed: {line["reason"]}', file=sys.stderr, flush=True)

    def _kept(self) -> list[Result]:
        """Results of the plan's rows and sets, without those whose folder somebody took away."""
        found = [r for r in self.results.rows.values() if r['row'] in self.plan.rows and r['set'] in self.plan.sets]
        return [r for r in found if r['status'] != DONE or (self.folder(r) / 'per_image.csv').is_file()]

    def sheets(self) -> None:
        """Write OUT/faces_<set>.png: each row at its first w and seed. They show faces, and so are not published."""
        for name in self.plan.sets:
            folders: dict[str, Path] = {}
            for result in self._kept():
                if result['set'] == name and result['status'] == DONE:
                    folders.setdefault(result['row'], self.folder(result))
            folders = {row: folders[row] for row in self.plan.rows if row in folders}
            if folders:
                imwrite(self.out / f'faces_{name}.png', faces_sheet(folders))

    def tables(self, prefix: Path) -> str:
        """Write the tables of all results of the plan's rows; the Markdown."""
        rows = self._kept()
        folders = {key_of(result): self.folder(result) / 'per_image.csv' for result in rows}
        text = write_tables(prefix, rows, folders, self.plan)
        write_results(prefix.with_name(f'{prefix.name}.csv'), rows)
        return text


def _figures(result: Mapping[str, Any]) -> Result:
    """Return the cells of a `result.json`."""
    figures = {}
    for metric, found in result['metrics'].items():
        figures |= {metric: found['mean']} if 'mean' in found else {}
        figures |= {f'{metric}_{key}': found[key] for key in ('p5', 'p25', 'p50', 'lost') if 'lost' in found}
        figures |= {f'{metric}_{key}': found[key] for key in ('low', 'high') if metric == 'towards'}
    reasons = [f'{metric}: {re.split("[;(]", why)[0].strip()}' for metric, why in result['not_run'].items()]
    if result['problems']:
        what = result['problems'][0].partition(': ')[2]  # without the file
        reasons.append(f'{len(result["problems"])} problems, the first: {what}')
    return {
        **{name: _figure(value) for name, value in figures.items()},
        'pictures': str(result['pictures']),
        'problems': str(len(result['problems'])),
        'judge_seconds': _figure(result['seconds']),
        'not_run': ' | '.join(reasons),
        'status': DONE,
        'reason': '',
    }


def _fewer(folders: Mapping[str, str], limit: int, out: Path) -> dict[str, str]:
    """Return the folders with copies of `limit` pictures of lq and gt at even steps in place of all."""
    chosen = at_even_steps(sorted(Folder.scan(folders['lq'], 'lq').files), limit)
    copies = dict(folders)
    for role in ('lq', 'gt'):
        source = Folder.scan(folders[role], role)
        for name in chosen:
            if (path := source.find(name)) is not None:
                target = out / role / f'{name}{path.suffix}'
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        copies[role] = str(out / role)
    return copies


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = ArgumentParser(description='Train and judge the rows of an ablation.')
    result.add_argument('--plan', type=Path, help='a file of options/ablation')
    result.add_argument('--rows', nargs='+', help='only these')
    result.add_argument('--seeds', nargs='+', type=int, help="in place of the plan's")
    result.add_argument('--out', type=Path, default=Path('results/ablation'))
    result.add_argument(
        '--set', nargs='+', default=[], metavar='KEY=VALUE', help='changes to the plan: sets:people:gt=FOLDER'
    )
    result.add_argument(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='changes to every option file that has the key'
    )
    result.add_argument('--publish', type=Path, help='write the tables and plots once more under this path')
    result.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='of the judging')
    result.add_argument('--job', type=Path, nargs='+', help=argparse.SUPPRESS)
    return result


def _job_process(files: Sequence[Path]) -> int:
    """Judge in this process, for `--job`. Failures are results too."""
    keep_freed_memory()
    for file in files:
        try:
            run_job(file)
        except (CheckpointError, ValueError, OSError) as error:
            print(error, file=sys.stderr)
            write_text(file.with_name('result.json'), json.dumps({'error': str(error)}) + '\n')
    return 0


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    if args.job:
        return _job_process(args.job)
    if not args.plan:
        parser().error('--plan is missing')
    signal.signal(signal.SIGTERM, _end)  # so that a training is told to save and leave, too
    try:
        plan = load_plan(args.plan, args.set)
        plan = replace(plan, force_yml=(*plan.force_yml, *args.force_yml))
        check_shared(plan)
        rows = args.rows or list(plan.rows)
        for name in rows:
            if name not in plan.rows:
                raise PlanError(f"--rows: no row '{name}'{nearest(name, plan.rows)}")
        with lock(args.out / '.lock', f'the ablation in {args.out}'):
            ablation = Ablation(plan, args.out, args.device)
            failed = ablation.run(rows, args.seeds or plan.seeds)
            text = ablation.tables(args.out / 'results')
            ablation.sheets()
            if args.publish:
                ablation.tables(args.publish)
    except (PlanError, EvaluationError, InUseError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(text)
    return 1 if failed else 0
