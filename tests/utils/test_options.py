"""Option files: inheritance, changes, checks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from option_files import FILES, OVERLAYS
from small import stage_options

from basicsr.models import build_model
from basicsr.models.schema import check_options
from basicsr.utils.options import OptionError, drop_nulls, dump_options, load_options, merge, parse_value
from basicsr.utils.weights import read_manifest

ROOT = Path(__file__).parents[2]
TABLES = ROOT / 'experiments/paper_tables/options'


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_option_file_is_valid(path):
    check_options(load_options(path))


def bases_of(path):
    """The files that an option file names as its bases."""
    named = parse_value(path.read_text(encoding='utf-8')).get('_base_', [])
    return [(path.parent / base).resolve() for base in ([named] if isinstance(named, str) else named)]


def test_no_chain_of_bases_is_deeper_than_two_and_every_overlay_is_used():
    def depth(path):
        return max((1 + depth(base) for base in bases_of(path)), default=0)

    used = set()
    for path in FILES:
        assert depth(path) <= 2, path
        used |= set(bases_of(path))
    assert used >= set(OVERLAYS)


def test_no_name_is_that_of_two_files():
    """Runs lie in a folder of this name, and a later stage goes on from there."""
    assert len(NAMES) == len(FILES)


def test_the_options_folder_has_what_is_trained_at_either_size_and_no_laboratory():
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / 'options').rglob('*.yml')}
    assert folders == {'options', 'options/small', 'options/overlays', 'options/eval'}
    assert sum(ROOT / 'options' in path.parents for path in FILES) <= 26


PLACES = {path.name: path for path in FILES}
NAMES = {load_options(path)['name'] for path in FILES}


def paths_of(options):
    """All texts below a section that name a place, with the keys that lead there."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from ((f'{key}:{inner}', path) for inner, path in paths_of(value))
        elif isinstance(value, str) and value.startswith(('datasets/', 'weights/', 'experiments/')):
            yield key, value


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_what_an_option_file_reads_is_made_or_fetched_as_documented(path):
    """Weights are in the manifest, earlier stages are other option files, data are in the documents."""
    names = (
        'docs/train.md',
        'docs/people.md',
        'docs/RIDFR.md',
        'weights/small/README.md',
        'experiments/small_model/before.md',
        'experiments/small_model/recipe.yml',
    )
    made = 'python -m experiments.ridfr.tiny -o weights/tiny_diffusion'
    pages = [ROOT / name for name in names]
    documented = ''.join(page.read_text(encoding='utf-8') for page in pages)
    fetched = [entry.file for entries in read_manifest(ROOT / 'weights/manifest.yml').values() for entry in entries]
    for key, place in paths_of(load_options(path)):
        kind, _, rest = place.partition('/')
        if kind == 'experiments':
            run, *folder = rest.split('/')
            trained = run in NAMES and folder == ['models', 'net_g_latest.pth']
            assert trained or f'--output experiments/{run}' in documented, f'{key}: {place}'
        elif kind == 'weights':
            of_folder = any(file.startswith(f'{rest}/') for file in fetched)
            tiny = rest.split('/')[0] == 'tiny_diffusion' and made in documented
            assert rest in fetched or of_folder or tiny or (ROOT / place).is_file(), f'{key}: {place}'
        else:
            assert place in documented, f'{key}: {place}'


@pytest.mark.parametrize(
    'row',
    ['CodeFormer', 'ID_CodeFormer_C', 'baseline_CodeFormer', 'paper_CodeFormer', 'paper_ID_CodeFormer_C'],
)
def test_stage_3_goes_on_from_its_own_stage_2(row):
    """The official stage II never saw the identity loss, so that row B would lose what it learnt."""
    first, second = (load_options(PLACES[f'{row}_stage{number}.yml']) for number in (2, 3))
    assert second['path']['pretrain_network_g'] == f'experiments/{first["name"]}/models/net_g_latest.pth'
    assert second['path']['param_key_g'] == 'params_ema'


def test_the_paper_variants_differ_in_what_the_page_says():
    """The weight and reach of the identity loss, and the formula of IA-CFT; nothing else."""
    allowed = ('name', 'path:pretrain_network_g', 'train:identity_opt', 'train:id_lr_scale')
    files = sorted(TABLES.glob('paper_*.yml'))
    assert len(files) == 6
    for path in files:
        ours, paper = (flat(load_options(p)) for p in (PLACES[path.name.removeprefix('paper_')], path))
        assert paper['train:identity_opt:loss_weight'] == 0.1
        differing = {key for key in ours.keys() | paper.keys() if ours.get(key) != paper.get(key)}
        formula = ('network_g:style_grid', 'train:style_opt', 'train:alignment_opt') if '_D_' in path.name else ()
        assert all(key.startswith((*allowed, *formula)) for key in differing), (path.name, differing)


def flat(options, before=''):
    """Values by their path of keys."""
    values = {}
    for key, value in options.items():
        values |= flat(value, f'{before}{key}:') if isinstance(value, dict) else {f'{before}{key}': value}
    return values


def test_base_is_laid_under_section_by_section(tmp_path):
    (tmp_path / 'base.yml').write_text('a: {x: 1, y: [1, 2]}\nb: 1\n')
    (tmp_path / 'child.yml').write_text('_base_: base.yml\na: {y: [3]}\n')
    assert load_options(tmp_path / 'child.yml') == {'a': {'x': 1, 'y': [3]}, 'b': 1}


def test_a_section_of_another_type_replaces_the_old_one():
    assert merge({'o': {'type': 'Adam', 'betas': [0, 0]}}, {'o': {'type': 'SGD'}}) == {'o': {'type': 'SGD'}}


def test_networks_and_datasets_of_another_type_keep_what_they_share():
    base = {'network_g': {'type': 'CodeFormer', 'n_head': 4}, 'datasets': {'train': {'type': 'A', 'gt_size': 64}}}
    changes = {'network_g': {'type': 'IDCodeFormer'}, 'datasets': {'train': {'type': 'B', '_replace_': True}}}
    merged = {'network_g': {'type': 'IDCodeFormer', 'n_head': 4}, 'datasets': {'train': {'type': 'B'}}}
    assert merge(base, changes) == merged


def test_a_change_on_the_command_line_follows_the_same_rule(tmp_path):
    (tmp_path / 'a.yml').write_text(
        'datasets: {train: {type: A, gt_size: 64}}\ntrain: {optim_g: {type: Adam, lr: 1}}\n'
    )
    changes = ['datasets:train={type: B}', 'train:optim_g={type: SGD}']
    opt = load_options(tmp_path / 'a.yml', changes)
    assert opt == {'datasets': {'train': {'type': 'B', 'gt_size': 64}}, 'train': {'optim_g': {'type': 'SGD'}}}


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


def test_a_change_of_a_type_leaves_what_lies_beside_it(tmp_path):
    (tmp_path / 'a.yml').write_text('train: {optim_g: {type: Adam, lr: 1}}\n')
    optimizer = 'train:optim_g'
    for changes in (['betas=[0, 1]', 'type=AdamW'], ['type=AdamW', 'betas=[0, 1]']):
        opt = load_options(tmp_path / 'a.yml', [f'{optimizer}:{change}' for change in changes])
        assert opt == {'train': {'optim_g': {'type': 'AdamW', 'lr': 1, 'betas': [0, 1]}}}
    assert load_options(tmp_path / 'a.yml', [f'{optimizer}={{type: SGD}}']) == {'train': {'optim_g': {'type': 'SGD'}}}
    assert load_options(tmp_path / 'a.yml', ['train:optim_g:lr:x=1'])['train']['optim_g']['lr'] == {'x': 1}


@pytest.mark.parametrize(('text', 'value'), [('1e-4', 1e-4), ('5e10', 5e10), ('1.5E3', 1500.0), ('x1e4', 'x1e4')])
def test_numbers_with_exponents_are_numbers(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(('text', 'kind'), [('5e10', int), ('!!float 5e3', int), ('1e-4', float), ('1.0', float)])
def test_whole_numbers_with_exponents_can_be_counted_with(text, kind):
    assert type(parse_value(text)) is kind


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'words'),
    [
        ((), 'networkg', {}, "did you mean 'network_g'"),
        (('train',), 'total_iters', 3, "did you mean 'total_iter'"),
        (('train',), 'total_iter', 'many', 'train:total_iter must be int'),
        (('train',), 'total_iter', 2.0, 'train:total_iter must be int, not 2.0'),
        (('train',), 'total_iter', float('inf'), 'train:total_iter must be int'),
        (('train',), 'warmup_iter', float('nan'), 'train:warmup_iter must be int'),
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
        (('datasets', 'train'), 'batch_size_per_gpu', 2.7, 'must be int'),
        (('datasets', 'train'), 'use_hflip', 'no', 'must be bool'),
        (('datasets', 'val'), 'type', 'FFHQBlindDataset', 'PairedImageDataset'),
        (('network_g',), 'n_layers', 'many', 'network_g:n_layers must be int'),
        (('train',), 'scheduler', {'type': 'MultiStepLR'}, "'milestones' is missing"),
        (
            ('train',),
            'scheduler',
            {'type': 'CosineAnnealingRestartLR', 'periods': [1, 2], 'restart_weights': [1]},
            'one length',
        ),
        (('path',), 'pretrain_net_g', 'x', "did you mean 'pretrain_network_g'"),
        ((), 'model_type', 'CodeFormerIdx', "did you mean 'CodeFormerIdxModel'"),
    ],
)
def test_mistakes_name_the_nearest_key(section, key, value, words, tmp_path):
    opt = {**stage_options(3 if key in ('pixel_opt', 'gan_opt') else 2, tmp_path), 'path': {}}
    check_options(opt)
    target = opt
    for name in section:
        target[name] = dict(target[name])
        target = target[name]
    target[key] = value
    with pytest.raises(OptionError, match=words):
        check_options(opt)


def test_null_means_the_default():
    assert drop_nulls({'a': None, 'b': {'c': None, 'd': 0}}) == {'b': {'d': 0}}


def test_resolved_options_can_be_read_again(tmp_path):
    opt = load_options(FILES[0])
    (tmp_path / 'again.yml').write_text(dump_options(opt))
    assert load_options(tmp_path / 'again.yml') == opt


PUBLISHED_STAGE_3 = """
name: CodeFormer_stage3
model_type: CodeFormerJointModel
num_gpu: 8
manual_seed: 0
datasets:
  train: {name: FFHQ, type: FFHQBlindJointDataset, dataroot_gt: ffhq, filename_tmpl: '{}', io_backend: {type: disk},
    in_size: 512, gt_size: 512, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], use_hflip: true, use_corrupt: true,
    blur_kernel_size: 41, use_motion_kernel: false, motion_kernel_prob: 0.001, kernel_list: ['iso', 'aniso'],
    kernel_prob: [0.5, 0.5], blur_sigma: [0.1, 10], downsample_range: [1, 12], noise_range: [0, 15],
    jpeg_range: [60, 100], blur_sigma_large: [1, 15], downsample_range_large: [4, 30], noise_range_large: [0, 20],
    jpeg_range_large: [30, 80], latent_gt_path: ~, component_path: ~, eye_enlarge_ratio: 1.4,
    color_jitter_prob: 0.3, color_jitter_shift: 20, color_jitter_pt_prob: 0.3, gray_prob: 0.01,
    brightness: [0.5, 1.5], num_worker_per_gpu: 1, batch_size_per_gpu: 3, dataset_enlarge_ratio: 100,
    prefetch_mode: ~, num_prefetch_queue: 4, pin_memory: true}
network_g: {type: CodeFormer, dim_embd: 512, n_head: 8, n_layers: 9, codebook_size: 1024,
  connect_list: ['32', '64', '128', '256'], fix_modules: ['quantize', 'generator']}
network_vqgan: {type: VQAutoEncoder, img_size: 512, nf: 64, ch_mult: [1, 2, 2, 4, 4, 8], quantizer: 'nearest',
  codebook_size: 1024}
network_d: {type: VQGANDiscriminator, nc: 3, ndf: 64, n_layers: 4, model_path: d.pth}
path: {pretrain_network_g: g.pth, param_key_g: params_ema, strict_load_g: false, pretrain_network_d: ~,
  strict_load_d: true, resume_state: ~}
train:
  use_hq_feat_loss: true
  feat_loss_weight: 1.0
  cross_entropy_loss: true
  entropy_loss_weight: 0.5
  scale_adaptive_gan_weight: 0.1
  optim_g: {type: Adam, lr: !!float 5e-5, weight_decay: 0, betas: [0.9, 0.99]}
  optim_d: {type: Adam, lr: !!float 5e-5, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingRestartLR, periods: [150000], restart_weights: [1], eta_min: !!float 2e-5}
  total_iter: 150000
  warmup_iter: -1
  ema_decay: 0.997
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
  perceptual_opt: {type: LPIPSLoss, loss_weight: 1.0, use_input_norm: true, range_norm: true}
  gan_opt: {type: GANLoss, gan_type: hinge, loss_weight: !!float 1.0}
  use_adaptive_weight: true
  net_g_start_iter: 0
  net_d_iters: 1
  net_d_start_iter: 5001
  manual_seed: 0
val: {val_freq: !!float 5e10, save_img: true,
  metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}}}
logger: {print_freq: 100, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29413}
find_unused_parameters: true
"""


def test_a_published_option_file_is_accepted(tmp_path):
    (tmp_path / 'published.yml').write_text(PUBLISHED_STAGE_3)
    opt = load_options(tmp_path / 'published.yml')
    check_options(opt)
    assert opt['val']['val_freq'] == 5e10
    assert opt['train']['optim_g']['lr'] == 5e-5


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'name: "a\\0b"', 'NUL in'),
        (b'name: a\x00b', 'not valid YAML'),
        (b'name: \xff\xfe', 'not a text in UTF-8'),
        (b'a: ' + b'[' * 50_000, 'not valid YAML'),
        (b'a: ' + b'[' * 60 + b']' * 60, 'nested more than 32 deep'),
        (b'a: ' + b'9' * 5000, 'not valid YAML'),
        (b'a: ' + b'9' * 25, 'more than 64 bits'),
        (b'a: 0x' + b'f' * 5000, 'more than 64 bits'),
        (b'a: .nan', 'no number to compute with'),
        (b'a: 1e999', 'no number to compute with'),
        (b'1: a', 'keys are texts, not 1'),
        (b'null: a', 'keys are texts, not None'),
        (b'a: {[1]: 2}', 'not valid YAML'),
        (b'a: !!int x', 'not valid YAML'),
        (b'a: !!float ""', 'not valid YAML'),
        (b'a: !!timestamp x', 'not valid YAML'),
        (b'a: !!python/object/apply:os.getcwd []', 'not valid YAML'),
        (b'a: 2001-99-99', 'not valid YAML'),
        (b'a: &a [*a]', 'nested more than 32 deep'),
        (b'\n'.join(b'a%d: &a%d [%s]' % (i, i, b', '.join([b'*a%d' % (i - 1)] * 9) if i else b'x') for i in range(9)),
         'more than 100000 entries'),
        (b'- a', 'a mapping of keys'),
        (b'x' * (1 << 21), 'above 1 MiB'),
        (b'_base_: 3', '_base_ is the name of a file'),
        (b'_base_: {a: b}', '_base_ is the name of a file'),
        (b'_base_: [3]', '_base_ is the name of a file'),
        (b'_base_: "a\\0b"', 'NUL in'),
        (b'_base_: nowhere.yml', 'no such file'),
        (b'_base_: .', 'no such file'),
        (b'_base_: loop.yml', 'no such file'),
        (b'_base_: fork.yml', 'more than 64 files'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)  # fmt: skip
def test_what_is_no_option_file_is_one_line(text, words, tmp_path):
    (tmp_path / 'a.yml').write_bytes(text)
    (tmp_path / 'loop.yml').symlink_to('loop.yml')
    (tmp_path / 'fork.yml').write_text('_base_: [b0.yml, b0.yml]')
    for i in range(20):
        (tmp_path / f'b{i}.yml').write_text(f'_base_: [b{i + 1}.yml, b{i + 1}.yml]')
    (tmp_path / 'b20.yml').write_text('{}')
    with pytest.raises(OptionError, match=words) as error:
        load_options(tmp_path / 'a.yml')
    assert '\n' not in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize('change', ['a=' + '[' * 50_000, 'a=' + '9' * 30, ':'.join('a' * 5000) + '=1', 'a=!!int x'])
def test_a_change_may_be_nonsense(change, tmp_path):
    (tmp_path / 'a.yml').write_text('a: 1\n')
    with pytest.raises(OptionError) as error:
        load_options(tmp_path / 'a.yml', [change])
    assert len(str(error.value)) < 700


def test_a_pipe_is_no_option_file(tmp_path):
    os.mkfifo(tmp_path / 'a.yml')
    with pytest.raises(OptionError, match='no such file'):
        load_options(tmp_path / 'a.yml')


@pytest.mark.parametrize('name', ['..', '.', '/tmp/x', '../x', 'a/../../x', 'a/b', 'a\\b', 'a\nb', 'x' * 300])
def test_a_name_cannot_lead_out_of_experiments(name, tmp_path):
    opt = stage_options(1, tmp_path)
    with pytest.raises(OptionError, match=r'name: .* use a plain name'):
        check_options({**opt, 'name': name})
    with pytest.raises(OptionError, match=r'datasets: .* use a plain name'):
        check_options({**opt, 'datasets': {**opt['datasets'], f'val_{name}/': {}}})


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('optim_g:betas', 3), ('optim_g:betas', ['a', 'b']), ('optim_g:betas', [0.9]), ('optim_g:betas', [2, 2]),
        ('optim_g:weight_decay', 'x'), ('optim_g:eps', [1]), ('optim_g:type', 'LBFGS'), ('optim_g:type', 'Optimizer'),
        ('optim_g:type', ['Adam']), ('optim_g:type', 7), ('optim_g:lr', 'x'), ('optim_g:lr', [1]), ('optim_g:lr', 1e9),
        ('scheduler:type', ['x']), ('scheduler:milestones', ['a']), ('scheduler:milestones', 3),
        ('scheduler:gamma', 'x'), ('scheduler', 3), ('optim_g', 'Adam'),
    ],
)  # fmt: skip
def test_arguments_of_optimizers_and_schedulers_are_tried_before_the_run(key, value, tmp_path):
    opt = stage_options(1, tmp_path)
    train: dict = {'scheduler': {'type': 'MultiStepLR', 'milestones': [3]}, 'optim_g': {'type': 'Adam', 'lr': 1e-3}}
    section, _, last = key.partition(':')
    train[section] = {**train[section], last: value} if last else value
    with pytest.raises(OptionError, match=f'train:{section}') as error:
        check_options({**opt, 'train': {**opt['train'], **train}})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('change', [{'ch_mult': 3}, {'ch_mult': ['a']}, {'attn_resolutions': 'x'}, {'nf': 1 << 40}])
def test_sizes_of_networks_are_checked(change, tmp_path):
    opt = stage_options(1, tmp_path)
    with pytest.raises(OptionError, match='network_g'):
        opt = {**opt, 'network_g': {**opt['network_g'], **change}}
        check_options(opt)
        build_model(opt)


@pytest.mark.parametrize(('key', 'value'), [('blur_sigma', ['a', 2]), ('kernel_list', [3]), ('mean', [None, 1, 2])])
def test_lists_of_datasets_hold_what_they_should(key, value, tmp_path):
    opt = stage_options(2, tmp_path)
    section = {'type': 'FFHQBlindDataset', 'dataroot_gt': 'x', key: value}
    with pytest.raises(OptionError, match=f'datasets:train:{key}: .* is no'):
        check_options({**opt, 'datasets': {'train': section}})


def test_the_tilde_is_the_home_folder_in_options(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.yml').write_text("datasets: {train: {dataroot: ~/faces, names: [~/one, '~two']}}\n")
    options = load_options(tmp_path / 'a.yml', ['path:weights=~/net.pth'])
    train = options['datasets']['train']
    assert train == {'dataroot': f'{tmp_path}/faces', 'names': [f'{tmp_path}/one', '~two']}
    assert options['path']['weights'] == f'{tmp_path}/net.pth'


def test_former_names_of_keys_are_read(tmp_path):
    (tmp_path / 'base.yml').write_text('train: {codebook_average: {decay: 0.9, restart_under: 0.1}}')
    file = tmp_path / 'a.yml'
    file.write_text('_base_: base.yml\ntrain: {codebook_ema: {decay: 0.5}, identity_opt: {reach: [cft]}}')
    changes = ['train:identity_opt:through_fusion=true', 'datasets:train={mistaken: 0.25, recognizer: x}']
    assert load_options(file, changes) == {
        'train': {
            'codebook_ema': {'decay': 0.5, 'dead_code_threshold': 0.1},
            'identity_opt': {'grad_to': ['cft'], 'grad_through_skips': True},
        },
        'datasets': {'train': {'mismatch_prob': 0.25, 'recognizer': 'x'}},
    }
    file.write_text('train: {codebook_average: {}, codebook_ema: {}}')
    with pytest.raises(OptionError, match="'codebook_average' is the former name of 'codebook_ema'"):
        load_options(file)
