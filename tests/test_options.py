"""Option files: inheritance, changes, checks."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import stage_options

from basicsr.schema import check_options
from basicsr.utils.options import OptionError, dump_options, load_options, merge, parse_value

FILES = sorted((Path(__file__).parents[1] / 'options').rglob('*.yml'))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_option_file_is_valid(path):
    check_options(load_options(path))


def test_base_is_laid_under_section_by_section(tmp_path):
    (tmp_path / 'base.yml').write_text('a: {x: 1, y: [1, 2]}\nb: 1\n')
    (tmp_path / 'child.yml').write_text('_base_: base.yml\na: {y: [3]}\n')
    assert load_options(tmp_path / 'child.yml') == {'a': {'x': 1, 'y': [3]}, 'b': 1}


def test_a_section_of_another_type_replaces_the_old_one():
    assert merge({'o': {'type': 'Adam', 'betas': [0, 0]}}, {'o': {'type': 'SGD'}}) == {'o': {'type': 'SGD'}}


def test_merge_leaves_its_inputs_alone():
    base = {'a': {'x': [1]}}
    merge(base, {'a': {'x': [2]}})['a']['x'].append(3)
    assert base == {'a': {'x': [1]}}


def test_bases_in_a_circle_are_an_error(tmp_path):
    (tmp_path / 'a.yml').write_text('_base_: b.yml\n')
    (tmp_path / 'b.yml').write_text('_base_: a.yml\n')
    with pytest.raises(OptionError, match='leads back'):
        load_options(tmp_path / 'a.yml')


def test_changes_from_the_command_line(tmp_path):
    (tmp_path / 'a.yml').write_text('train: {lr: 1}\n')
    opt = load_options(tmp_path / 'a.yml', ['train:lr=1e-4', 'train:betas=[0.9, 0.99]', 'name=x=y'])
    assert opt == {'train': {'lr': 1e-4, 'betas': [0.9, 0.99]}, 'name': 'x=y'}
    with pytest.raises(OptionError, match='section:key=value'):
        load_options(tmp_path / 'a.yml', ['train'])


@pytest.mark.parametrize(('text', 'value'), [('1e-4', 1e-4), ('5e10', 5e10), ('1.5E3', 1500.0), ('x1e4', 'x1e4')])
def test_numbers_with_exponents_are_numbers(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'words'),
    [
        ((), 'networkg', {}, "did you mean 'network_g'"),
        (('train',), 'total_iters', 3, "did you mean 'total_iter'"),
        (('train',), 'total_iter', 'many', 'train:total_iter must be int'),
        (('train',), 'use_hq_feat_loss', 1, 'must be bool'),
        (('train', 'optim_g'), 'beta', 1, "did you mean 'betas'"),
        (('train', 'optim_g'), 'lr', -1, 'lr must be a number between 0 and 1'),
        (('train', 'optim_g'), 'type', 'Adan', "did you mean 'Adam"),
        (('train',), 'scheduler', {'type': 'Cosine'}, 'unknown type'),
        (('train',), 'pixel_opt', {'type': 'L1Los'}, "did you mean 'L1Loss'"),
        (('train',), 'pixel_opt', {'type': 'L1Loss', 'weight': 1}, "unknown key 'weight'"),
        (('train',), 'gan_opt', {'type': 'GANLoss'}, "'gan_type' is missing"),
        (('network_g',), 'n_heads', 8, "did you mean 'n_head'"),
        (('datasets', 'train'), 'blur_sigm', [1, 2], "did you mean 'blur_sigma'"),
        (('datasets', 'train'), 'type', 'FFHQDataset', 'FFHQBlindDataset'),
        (('val', 'metrics'), 'psnr', {'type': 'calculate_psn'}, "did you mean 'calculate_psnr'"),
        (('path',), 'pretrain_net_g', 'x', "did you mean 'pretrain_network_g'"),
        ((), 'model_type', 'CodeFormerIdx', "did you mean 'CodeFormerIdxModel'"),
    ],
)
def test_mistakes_name_the_nearest_key(section, key, value, words, tmp_path):
    opt = {**stage_options(2, tmp_path), 'path': {}}
    check_options(opt)
    target = opt
    for name in section:
        target[name] = dict(target[name])
        target = target[name]
    target[key] = value
    with pytest.raises(OptionError, match=words):
        check_options(opt)


def test_resolved_options_can_be_read_again(tmp_path):
    opt = load_options(FILES[0])
    (tmp_path / 'again.yml').write_text(dump_options(opt))
    assert load_options(tmp_path / 'again.yml') == opt
