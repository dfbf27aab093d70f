"""One network on one set: the faces are restored into a folder, with references where asked for, and judged.

It runs in a process of its own, so that whatever happens here happens to one row.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs import CodeFormerPlusPlus
from basicsr.inference import FaceRestorer
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.jobs import Job as Entry
from basicsr.inference.people import Person
from basicsr.metrics.builders import Settings
from basicsr.metrics.evaluation import evaluate, paired_bootstrap
from basicsr.metrics.pictures import Folder
from basicsr.metrics.report import write_report
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.files import write_text
from basicsr.utils.image import imread, to_tensor
from experiments.ablation.plan import PlanError
from experiments.references import own_references, wrong_references
from experiments.restoring import restore_faces

BATCH = 8


@dataclass(frozen=True)
class Job:
    """Job of restoring and judging, as plain values.

    Attributes:
        label: in reports.
        checkpoint: of the network; '' judges the pictures of `lq` as they are.
        folders: by role, `lq`, `gt` and perhaps `ref`.
        w: fidelity weight.
        adain: see `CodeFormer.forward`.
        color_fix: see `FaceRestorer`.
        references: '', 'own' or 'wrong', see `plan.Row`.
        search: steps, see `plan.Row`.
        recognizer: of the references.
        count: references of a face.
        vary: references that each face is restored under for the identity variance; 0 for none.
        metrics: names of the table.
        judge: `recognizer` and `weights`.
        device: cpu, cuda, …
        out: folder of the results.
        output: see `plan.Row`.
    """

    label: str
    checkpoint: str
    folders: Mapping[str, str]
    w: float
    adain: bool
    color_fix: bool
    references: str
    search: int
    recognizer: str | None
    count: int
    vary: int
    metrics: Sequence[str]
    judge: Mapping[str, Any]
    device: str
    out: str
    output: str = ''

    def save(self, path: Path) -> None:
        """To a file that `run_job` reads."""
        write_text(path, json.dumps(asdict(self), indent=2) + '\n')

    @classmethod
    def read(cls, path: Path) -> Job:
        """From a file of `save`."""
        return cls(**json.loads(path.read_text(encoding='utf-8')))


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of photographs in their own size, each computed once.

    Args:
        embedder: the recognizer, on its device.
    """

    embedder: FaceEmbedder
    known: dict[Path, Tensor] = field(default_factory=dict)

    def __call__(self, paths: Sequence[Path]) -> Tensor:
        """Return unit vectors (R,D), on the CPU."""
        device = next(self.embedder.network.parameters()).device
        for path in paths:
            if path not in self.known:
                self.known[path] = self.embedder(to_tensor(imread(path))[None].to(device))[0].cpu()
        return torch.stack([self.known[path] for path in paths])


class Registered(nn.Module):
    """In place of the transfer network of a CodeFormer++: the registered face as it is."""

    def forward(self, faithful: Tensor, warped: Tensor, texture: float) -> Tensor:
        """I_F and I_warp (N,3,S,S) -> I_warp."""
        return warped


class Restorer:
    """A job's network, and what it is told.

    Raises:
        CheckpointError: the network or the recognizer cannot be loaded.
        PlanError: references for a network that takes none, or of a recognizer that does not fit; or no face has any.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        size = 1 if job.search else BATCH  # as a search goes face by face, so does what it is compared with
        self.restorer = FaceRestorer(job.checkpoint, job.device, batch_size=size, color_fix=job.color_fix)
        if job.output:
            if not isinstance(self.restorer.network, CodeFormerPlusPlus):
                raise PlanError(f'{job.checkpoint}: no CodeFormer++, so there is no {job.output}')
            self.restorer.network.add_module('tgrn', Registered())
        self.inputs = Folder.scan(job.folders['lq'], 'lq')
        self.photos = self.guide = None
        if job.references:
            told = self.restorer.takes_identity
            if not told and not job.search:
                raise PlanError(
                    f'{job.checkpoint}: a CodeFormer, which takes no references; use an IDCodeFormer, or search'
                )
            self.photos, embedder = Folder.scan(job.folders['ref'], 'ref'), FaceEmbedder(job.recognizer).to(job.device)
            self.guide = IdentityConditioner(embedder, tells_people=told, search_steps=job.search)
            found, wanted = embedder.dim, self.restorer.told_by[1]
            if told and found != wanted:
                raise PlanError(
                    f'{job.checkpoint}: takes embeddings of {wanted} numbers; the recognizer {job.recognizer} gives '
                    f'{found}'
                )
            if not any(self.choose(name, 1) for name in self.inputs.files):
                raise PlanError(f'{job.folders["ref"]}: no face of {job.folders["lq"]} has a reference there')

    def restore(self, out: Path) -> None:
        """Every face of the set, under `count` references, as `<name>.png`."""
        self._write([(name, name, self.choose(name, self.job.count)) for name in self.inputs.files], out)

    def restore_blind(self, out: Path) -> None:
        """Every face as if nothing were known of it, as `<name>.png`."""
        self._write([(name, name, []) for name in self.inputs.files], out)

    def towards(self, restored: Path, blind: Path, judge: FaceEmbedder) -> dict[str, float]:
        """Return the gain of `restored` over `blind` in similarity to the reference photographs, by a recognizer.

        Args:
            restored, blind: folders of `restore` and `restore_blind`.
            judge: the recognizer.

        Returns:
            'mean' of the difference of cosines over the faces, and its 95 % interval, 'low' and 'high'.
        """
        embed = Embedded(judge.to(self.job.device))
        chosen = {name: self.choose(name, self.job.count) for name in self.inputs.files}

        def nearness(folder: Path) -> list[float]:
            return [
                (embed(photos) @ embed([folder / f'{name}.png'])[0]).mean().item()
                for name, photos in chosen.items()
                if photos
            ]

        figures = paired_bootstrap(nearness(restored), nearness(blind))
        return dict(zip(('mean', 'low', 'high'), figures, strict=True))

    def restore_varied(self, out: Path) -> bool:
        """Every face with two references or more under each of `vary` of them alone, as `<name>__<number>.png`.

        Returns:
            Whether there are any.
        """
        items = []
        for name in self.inputs.files:
            chosen = self.choose(name, self.job.vary)
            if len(chosen) > 1:
                items += [(name, f'{name}__{number}', [path]) for number, path in enumerate(chosen)]
        self._write(items, out)
        return bool(items)

    def choose(self, name: str, count: int) -> list[Path]:
        """Return the first `count` references of a face, or as many as there are."""
        if self.photos is None:
            return []
        if self.job.references == 'own':
            return own_references(self.photos, name, count)
        found = wrong_references(self.photos, name, count)
        if not found:
            raise PlanError(f'{self.photos.root}: nobody but the person of {name}; wrong references need other people')
        return found

    def _write(self, items: Sequence[tuple[str, str, list[Path]]], out: Path) -> None:
        """Write what comes of (input's name, output's name, references)."""
        if out.exists():
            shutil.rmtree(out)
        chosen = {target: photos for _, target, photos in items}
        embed = None if self.guide is None else Embedded(self.guide.embedder)

        def who(batch: Sequence[Entry]) -> list[Person | None]:
            given = [(job.name, chosen[job.name]) for job in batch]
            return [Person(name, tuple(p), embed(p)) if embed and p else None for name, p in given]

        jobs = [Entry(self.inputs.files[name], target) for name, target, _ in items]
        problems = restore_faces(self.restorer, jobs, out, self.job.w, self.job.adain, self.guide, who)
        if problems:
            raise PlanError(problems[0])


def _only_summary(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's summary that the row keeps."""
    run = next(iter(content['runs'].values()))
    kept = {key: run[key] for key in ('pictures', 'metrics', 'problems')}
    return {**kept, 'not_run': {**content['not_run'], **run['not_run']}, 'environment': content['environment']}


@torch.no_grad()
def run_job(path: Path) -> None:
    """Carry out the job of a file; `result.json` beside the report says what came out.

    Raises:
        PlanError, CheckpointError, EvaluationError, OSError: it cannot be done.
    """
    begun = time.monotonic()
    job = Job.read(path)
    out = Path(job.out)
    settings = Settings(torch.device(job.device), job.judge['recognizer'], job.judge['weights'])
    restored = Path(job.folders['lq'])
    restorer = Restorer(job) if job.checkpoint else None
    if restorer is not None:
        restored = out / 'restored'
        restorer.restore(restored)
    others = {role: Path(folder) for role, folder in job.folders.items() if role != 'lq' or job.checkpoint}
    evaluation = evaluate([restored], others, job.metrics, settings)
    evaluation.runs[0].label = job.label
    result = _only_summary(write_report(out, evaluation))
    if restorer is not None and restorer.photos is not None and settings.recognizer:
        restorer.restore_blind(out / 'blind')
        judge = FaceEmbedder(settings.recognizer)
        result['metrics']['towards'] = restorer.towards(restored, out / 'blind', judge)
    if restorer is not None and restorer.photos is not None and job.vary:
        if restorer.restore_varied(out / 'varied'):
            judged = evaluate([out / 'varied'], {'gt': Path(job.folders['gt'])}, ['identity_variance'], settings)
            result['metrics'] |= judged.runs[0].sets
            result['not_run'] |= {**judged.not_run, **judged.runs[0].not_run}
        else:
            result['not_run']['identity_variance'] = 'no face has two references'
    result['seconds'] = round(time.monotonic() - begun, 1)
    write_text(out / 'result.json', json.dumps(result, indent=2) + '\n')
