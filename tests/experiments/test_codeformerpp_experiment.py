"""The plan of experiments/codeformerpp: its command is understood, and every row can be trained with what it sets."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from experiments.ablation.plan import PlanError, load_plan
from experiments.ablation.stages import check_shared, trainings_of
from experiments.codeformerpp import run

ROOT = Path(__file__).resolve().parents[2]
SETS = {f'{name}_{damage}': Path(name) for name in ('faces', *run.PEOPLE) for damage in run.SEVERITIES}


@pytest.fixture
def set_up(monkeypatch):
    """The plan as the command on the page sets it up for a prior from 96 to 192 pixels, and its changes of options."""
    monkeypatch.chdir(ROOT)
    page = (run.HERE / 'README.md').read_text(encoding='utf-8')
    (command,) = (line for line in page.splitlines() if line.startswith('python -m experiments.codeformerpp.run '))
    args = run.parser().parse_args([*shlex.split(command)[3:], '--prior', 'prior.pth', '--trial'])
    plan, options = run.changes(args, 96, 192, SETS)
    return load_plan(run.HERE / 'plan.yml', plan), options


def test_every_row_can_be_trained(set_up):
    plan, options = set_up
    shared = [*plan.force_yml, *options]
    trainings = {row.name: trainings_of(row, 0, shared) for row in plan.rows.values() if row.stages}
    last = {name: stages[-1].options for name, stages in trainings.items()}
    assert {len(stages) for stages in trainings.values()} == {1, 2}
    for options in last.values():
        assert options['network_g']['prior_path'] == 'prior.pth'
        assert options['train']['total_iter'] == 4
        faces = options['datasets']['train']
        assert (faces['in_size'], faces['gt_size']) == (96, 192)  # a training refuses any other sides than its prior's
    assert last['without DAM']['network_g']['texture_from'] == 'I_G'
    assert last['fed I_F twice']['network_g']['texture_from'] == 'I_F'
    assert not last['without metric learning']['train']['metric_opt'] and last['full']['train']['metric_opt']
    assert trainings['I_warp'][-1].name == trainings['full'][-1].name  # one training, judged twice
    assert trainings['without metric learning'][0].name == trainings['full'][0].name
    first = trainings['full'][0].name
    assert last['full']['path']['pretrain_network_g'] == f'experiments/{first}/models/net_g_latest.pth'


def test_the_plan_compares_with_what_costs_nothing(set_up):
    plan, _ = set_up
    assert plan.baselines == ('prior, between', 'fed I_F twice', 'prior, I_F')
    priors = {name: row for name, row in plan.rows.items() if row.checkpoint}
    assert {str(row.checkpoint) for row in priors.values()} == {'prior.pth'}
    assert sorted(row.w for row in priors.values()) == [(0.0,), (0.5,), (1.0,)]
    assert set(plan.sets) == set(SETS) and plan.rows['I_warp'].output == 'I_warp'
    check_shared(plan)


def test_an_unknown_output_is_named(monkeypatch):
    monkeypatch.chdir(ROOT)
    changes = ['rows:I_warp:output=I_wrap', *(f'sets:faces:{role}=x' for role in ('lq', 'gt'))]
    with pytest.raises(PlanError, match=r"rows:I_warp:output: unknown 'I_wrap'.*I_warp"):
        load_plan(run.HERE / 'plan.yml', changes)
