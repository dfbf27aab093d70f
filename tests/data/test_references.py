"""References in training: who is who, which photographs tell it, their embeddings, and the stages with them."""

from __future__ import annotations

import csv
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import torch
from small import CODEFORMER, stage_options
from small_recognizer import save_tiny
from torch.utils.data import default_collate

from basicsr.archs import build_network
from basicsr.cli import train
from basicsr.data import DataError, build_dataloader, build_dataset
from basicsr.data.embeddings import Embeddings, reference_variants
from basicsr.data.people import people_of
from basicsr.models.schema import check_options
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.registry import RECOGNIZERS
from basicsr.utils.image import imread, imwrite, to_tensor
from basicsr.utils.options import OptionError, drop_nulls, load_options

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from basicsr.cli import data_embed as embed_references
from basicsr.cli import data_group as build_identity_index
from basicsr.cli import data_lmdb as create_lmdb

KINDS = ('ReferenceBlindDataset', 'ReferenceBlindJointDataset')
PHOTOS = {'ann': 4, 'bob': 2, 'eve': 1}
VARIANTS = 3


def photo(number: int) -> np.ndarray:
    """A crop of the astronaut, RGB uint8 (64,64,3), another for each number."""
    return skimage.data.astronaut()[9 * number :, 11 * number :][:64, :64].copy()


def embed(faces: Path, output: Path, weights: Path, *more: str) -> int:
    places = ['-i', str(faces), '-o', str(output), '--weights', str(weights)]
    return embed_references.main([*places, '--variants', str(VARIANTS), '--device', 'cpu', *more])


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    """`faces/<person>/`, `recognizer.pth`, `faces.safetensors`."""
    root = tmp_path_factory.mktemp('people')
    numbers = iter(range(100))
    for person, count in PHOTOS.items():
        for number in range(count):
            imwrite(root / 'faces' / person / f'{number}.png', photo(next(numbers)))
    save_tiny(root / 'recognizer.pth')
    assert embed(root / 'faces', root / 'faces.safetensors', root / 'recognizer.pth') == 0
    return root


@pytest.fixture
def place(made, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / 'place'))


def options(root: Path, **more: Any) -> dict[str, Any]:
    return {
        'type': 'ReferenceBlindDataset',
        'dataroot_gt': str(root / 'faces'),
        'embeddings': str(root / 'faces.safetensors'),
        'recognizer': str(root / 'recognizer.pth'),
        'gt_size': 64,
        **more,
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


def person_of(path: str) -> str:
    return Path(path).parent.name


@pytest.mark.parametrize('kind', KINDS)
def test_the_number_of_workers_changes_nothing(kind, made):
    runs = []
    for workers in (0, 2):
        data = build_dataset(options(made, type=kind, references=2, seed=3))
        loader = build_dataloader(data, {'num_worker_per_gpu': workers, 'batch_size_per_gpu': 3}, seed=1)
        batches = iter(loader)
        runs.append([next(batches) for _ in range(4)])
    assert all(same(first, second) for first, second in zip(*runs, strict=True))
    assert runs[0][0]['identity'].shape == (3, 2, 16) and runs[0][0]['identity_mask'].shape == (3, 2)


def test_another_seed_or_epoch_draws_other_references(made):
    data, other = build_dataset(options(made, seed=1)), build_dataset(options(made, seed=2))
    epochs = [[data[v + epoch * len(data)]['identity'] for v in range(4)] for epoch in range(2)]
    assert any(not torch.equal(*pair) for pair in zip(*epochs, strict=True))
    assert any(not torch.equal(data[v]['identity'], other[v]['identity']) for v in range(4))


@pytest.mark.parametrize('kind', KINDS)
def test_the_faces_are_those_of_the_datasets_without_references(kind, made, tmp_path):
    """What the references draw does not change what the damage draws."""
    folder = Path(shutil.copytree(made / 'faces', tmp_path / 'faces'))
    shutil.rmtree(folder / 'eve')
    plain = build_dataset({'type': kind.replace('Reference', 'FFHQ'), 'dataroot_gt': str(folder), 'gt_size': 64})
    data = build_dataset(options(made, type=kind, references=3))
    assert len(data) == len(plain) == 6
    for v in range(12):
        item, expected = data[v], plain[v]
        assert set(item) == {*expected, 'identity', 'identity_mask', 'ref_path'}
        assert all(torch.equal(item[key], expected[key]) for key in expected if key != 'gt_path')


def test_references_are_other_photographs_of_the_same_person(made):
    data = build_dataset(options(made, references=2))
    seen: dict[str, set[str]] = {}
    for v in range(90):
        item = data[v]
        names = item['ref_path'].split(';')
        assert item['gt_path'] not in names and len(set(names)) == len(names)
        assert {person_of(name) for name in names} == {person_of(item['gt_path'])}
        seen.setdefault(item['gt_path'], set()).update(names)
    assert len(seen) == 6 and 'eve' not in {person_of(path) for path in seen}
    for path, names in seen.items():
        assert len(names) == PHOTOS[person_of(path)] - 1


def test_copies_of_the_photograph_are_no_references(place):
    """Whatever they are called; and two copies are one photograph."""
    shutil.copy(place / 'faces/ann/0.png', place / 'faces/ann/copy.png')
    shutil.copy(place / 'faces/eve/0.png', place / 'faces/eve/copy.png')
    data = build_dataset(options(place, references=5))
    assert len(data) == 7
    for v in range(28):
        item = data[v]
        content = [Path(name).read_bytes() for name in [item['gt_path'], *item['ref_path'].split(';')]]
        assert len(set(content)) == len(content) == PHOTOS[person_of(item['gt_path'])]


def test_the_mask_tells_the_references_that_there_are(made):
    data = build_dataset(options(made, references=3))
    for v in range(6):
        item = data[v]
        there = PHOTOS[person_of(item['gt_path'])] - 1
        assert item['identity'].dtype == torch.float32 and item['identity_mask'].dtype == torch.bool
        assert item['identity_mask'].tolist() == [True] * there + [False] * (3 - there)
        assert len(item['ref_path'].split(';')) == there
        torch.testing.assert_close(item['identity'].norm(dim=1), item['identity_mask'].float(), atol=2e-3, rtol=0)


def test_identities_are_what_the_recognizer_says_of_a_variant_of_the_photograph(made):
    """Of each variant and its mirror image; the first variant is the photograph itself."""
    table = Embeddings.read(made / 'faces.safetensors')
    embedder = FaceEmbedder(made / 'recognizer.pth')
    data = build_dataset(options(made))
    looks = set()
    for v in range(120):
        item = data[v]
        rows = (table.vectors.float() == item['identity'][0]).all(-1).nonzero().tolist()
        assert len(rows) == 1
        _, side, variant = rows[0]
        looks.add((side, variant))
        face = to_tensor(imread(item['ref_path']))
        if variant == 0:
            expected = embedder((face.flip(2) if side else face)[None])[0]
            torch.testing.assert_close(item['identity'][0], expected, atol=1e-3, rtol=0)
    assert looks == {(side, variant) for side in range(2) for variant in range(VARIANTS)}


def test_self_reference_is_the_mirrored_and_degraded_photograph_and_only_for_those_without_another(made):
    table = Embeddings.read(made / 'faces.safetensors')
    data = build_dataset(options(made, self_reference=True, references=2))
    assert len(data) == 7
    sides = set()
    for v in range(0, 210):
        if person_of(str(data.paths[v % 7])) != 'eve':
            continue
        item = data[v]
        assert set(item['ref_path'].split(';')) == {item['gt_path']} and item['identity_mask'].all()
        flipped = torch.equal(item['gt'], to_tensor(imread(item['gt_path'])).flip(2))
        looks = [(table.vectors.float() == vector).all(-1).nonzero()[0, 1:].tolist() for vector in item['identity']]
        (side, variant), second = looks
        assert side == 1 - flipped and variant > 0 and second[1] > 0 and second != looks[0]
        sides.add(side)
    assert sides == {0, 1}
    assert all(item['gt_path'] != item['ref_path'] for item in map(data.__getitem__, range(6)))


def test_variants_lose_detail_but_keep_place_and_size():
    image = skimage.data.astronaut()[:256, 96:352].copy()
    first, *others = reference_variants(image, 9, np.random.default_rng(0))
    assert first is image
    assert {variant.shape for variant in others} == {image.shape}
    errors = [np.abs(variant.astype(float) - image).mean() for variant in others]
    assert 0.2 < min(errors) < max(errors) / 2 < 5


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('list.csv', 'person,file,note\n1,{a}.png,x\n1,{b}.png,\n2,{c}.png,\n'),
        ('identity.txt', '{a}.png 1\n{b}.png  1\n\n{c}.png 2\n'),
        ('identity.txt', '{a} 1\n{b} 1\n{c} 2\n'),
        ('identity.txt', 'elsewhere.jpg 7\n{a}.jpg 1\n{b}.jpg 1\n{c}.jpg 2\n'),
    ],
)
def test_lists_of_file_and_person(name, text, made, tmp_path):
    (tmp_path / name).write_text(text.format(a='ann/0', b='bob/1', c='eve/0'))
    data = build_dataset(options(made, identities=str(tmp_path / name)))
    pictures = {'ann/0.png', 'bob/1.png'}
    assert {path.relative_to(made / 'faces').as_posix() for path in data.paths} == pictures
    item = data[0]
    assert {Path(item[key]).relative_to(made / 'faces').as_posix() for key in ('gt_path', 'ref_path')} == pictures


def test_lists_may_name_files_by_their_last_part_where_it_is_unique(tmp_path):
    (tmp_path / 'list.txt').write_text('7.jpg me\n8.jpg you\n')
    paths = [tmp_path / 'a/7.jpg', tmp_path / 'b/8.jpg', tmp_path / 'c/8.jpg']
    assert people_of(paths, tmp_path, tmp_path / 'list.txt') == ['me', None, None]


@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        ('list.csv', 'file,who\na.png,1\n', "needs 'file' and 'person'"),
        ('list.csv', 'file,person\nann/0.png,\n', 'row 2 lacks'),
        ('list.csv', 'file,person\nann/0.png,1\nann/0.png,2\n', "both '1' and '2'"),
        ('list.csv', 'file,person\n', 'empty list'),
        ('list.txt', 'ann/0.png 1\nann/1.png\n', "line 2 is 'ann/1.png'"),
        ('list.txt', 'nobody.png 1\n', 'names none of the 7 pictures'),
        ('list.txt', None, 'cannot be read'),
    ],
)
def test_bad_lists_are_errors_that_name_the_place(name, text, words, made, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        build_dataset(options(made, identities=str(tmp_path / name)))


def test_pictures_outside_the_folders_of_people_are_an_error(place):
    imwrite(place / 'faces/stray.png', photo(20))
    with pytest.raises(DataError, match=r'stray\.png: lies in no folder of a person'):
        build_dataset(options(place))


def test_embeddings_are_found_by_content_wherever_the_file_is(place):
    faces = place / 'faces'
    before = build_dataset(options(place))
    (faces / 'ann').rename(faces / 'zoe')
    (faces / 'bob/0.png').rename(faces / 'bob/9.png')
    after = build_dataset(options(place))
    table = Embeddings.read(place / 'faces.safetensors')
    digest = {bytes(key): row for row, key in enumerate(table.digests.numpy())}
    for data in (before, after):
        for path, row in zip(after.paths, after.references.rows, strict=True):
            assert digest[hashlib.sha256(path.read_bytes()).digest()] == row
        assert len(data) == 6


def test_a_picture_without_embedding_is_an_error_with_the_command(place):
    """A changed one too, although its name is known."""
    imwrite(place / 'faces/bob/1.png', photo(30))
    imwrite(place / 'faces/bob/2.png', photo(31))
    words = r'bob/1\.png: .* \(2 of 8 lack one\); run id-codeformer data embed -i .*faces -o .*safetensors'
    with pytest.raises(DataError, match=words):
        build_dataset(options(place))
    assert len(build_dataset(options(place, on_error='skip'))) == 4
    assert embed(place / 'faces', place / 'faces.safetensors', place / 'recognizer.pth') == 0
    assert len(build_dataset(options(place))) == 7


def test_embedding_again_computes_only_what_is_missing(place, monkeypatch, capsys):
    shown: list[int] = []
    forward = FaceEmbedder.forward

    def watch(self, faces, landmarks=None):
        shown.append(len(faces))
        return forward(self, faces, landmarks)

    monkeypatch.setattr(FaceEmbedder, 'forward', watch)
    file, first = place / 'faces.safetensors', Embeddings.read(place / 'faces.safetensors')
    imwrite(place / 'faces/bob/2.png', photo(31))
    shutil.copy(place / 'faces/bob/2.png', place / 'faces/bob/3.png')
    assert embed(place / 'faces', file, place / 'recognizer.pth') == 0
    assert shown == [VARIANTS, VARIANTS]
    assert '1 photographs embedded' in capsys.readouterr().out
    again = Embeddings.read(file)
    assert torch.equal(again.vectors[:-1], first.vectors) and len(again.vectors) == 8
    assert not list(place.glob('.*part'))


def test_embeddings_under_the_former_spelling_are_read(place):
    file = place / 'faces.safetensors'
    table = Embeddings.read(file)
    tensors = {'digests': table.digests, 'stamps': table.stamps, 'vectors': table.vectors}
    header = {'recogniser': 'tiny', 'recogniser_sum': table.recognizer_sum, 'seed': '0'}
    safetensors.torch.save_file(tensors, file, header)
    again = Embeddings.read(file)
    assert (again.recognizer, again.recognizer_sum) == ('tiny', table.recognizer_sum)


def test_files_that_are_as_they_were_are_not_read(place, monkeypatch):
    """Copied ones are, until the script has seen them."""
    reads: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda self: reads.append(self) or read_bytes(self))
    embed(place / 'faces', place / 'faces.safetensors', place / 'recognizer.pth')
    reads.clear()
    build_dataset(options(place))
    assert [path for path in reads if path.suffix == '.png'] == []
    imwrite(place / 'faces/ann/0.png', imread(place / 'faces/ann/0.png'))
    reads.clear()
    build_dataset(options(place))
    assert [path.name for path in reads if path.suffix == '.png'] == ['0.png']


def test_embeddings_of_another_recognizer_are_an_error(place):
    other = save_tiny(place / 'other.pth', seed=8)
    with pytest.raises(DataError, match=r"not of '.*other\.pth'; make others with id-codeformer data embed"):
        build_dataset(options(place, recognizer=str(other)))
    with pytest.raises(DataError, match="not of 'arcface_ir_se50'"):
        build_dataset(options(place, recognizer='arcface_ir_se50'))
    name = Embeddings.read(place / 'faces.safetensors').recognizer
    assert len(build_dataset(options(place, recognizer=name))) == 6


@pytest.mark.parametrize('change', ['recognizer', 'seed', 'variants'])
def test_the_script_mixes_nothing(change, place, capsys):
    weights, more = place / 'recognizer.pth', []
    if change == 'recognizer':
        weights = save_tiny(place / 'other.pth', seed=8)
    else:
        more = [f'--{change}', '7']
    before = (place / 'faces.safetensors').read_bytes()
    assert embed(place / 'faces', place / 'faces.safetensors', weights, *more) == 2
    assert 'give another --output' in capsys.readouterr().err
    assert (place / 'faces.safetensors').read_bytes() == before


def test_a_damaged_photograph_is_named_and_the_others_are_embedded(place, capsys):
    (place / 'faces/bob/bad.png').write_bytes(b'not a picture')
    imwrite(place / 'faces/bob/small.png', photo(38)[:32, :32])
    imwrite(place / 'faces/bob/good.png', photo(39))
    assert embed(place / 'faces', place / 'faces.safetensors', place / 'recognizer.pth') == 1
    said = capsys.readouterr()
    assert 'bad.png' in said.err and 'small.png' in said.err and '1 photographs embedded' in said.out


@pytest.mark.parametrize('damage', ['gone', 'text', 'cut'])
def test_a_damaged_file_of_embeddings_is_an_error(damage, place):
    file = place / 'faces.safetensors'
    if damage == 'gone':
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:200] if damage == 'cut' else b'text')
    with pytest.raises(DataError, match='make it with id-codeformer data embed'):
        build_dataset(options(place))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'embeddings': None}, "'embeddings' is missing"),
        ({'references': 0}, 'needs 1 or more'),
    ],
)
def test_wrong_options_are_errors(change, words, made):
    with pytest.raises(DataError, match=words):
        build_dataset(options(made) | change)


def test_nobody_with_two_photographs_is_an_error_that_names_the_remedy(place):
    shutil.rmtree(place / 'faces/ann')
    shutil.rmtree(place / 'faces/bob')
    with pytest.raises(DataError, match='self_reference: true'):
        build_dataset(options(place))


def test_pictures_in_memory_give_the_same_items(made):
    data, held = build_dataset(options(made)), build_dataset(options(made, io_backend={'type': 'memory'}))
    assert all(same(data[v], held[v]) for v in range(8))


def test_pictures_in_an_lmdb_have_the_embeddings_of_their_files(made, tmp_path):
    packed = tmp_path / 'faces.lmdb'
    assert create_lmdb.main(['-i', str(made / 'faces'), '-o', str(packed)]) == 0
    data = build_dataset(options(made))
    held = build_dataset(options(made, dataroot_gt=str(packed), io_backend={'type': 'lmdb'}))
    for v in range(8):
        assert all(torch.equal(data[v][key], held[v][key]) for key in ('in', 'gt', 'identity', 'identity_mask'))
    assert embed(packed, tmp_path / 'packed.safetensors', made / 'recognizer.pth') == 0
    first, second = (Embeddings.read(path) for path in (made / 'faces.safetensors', tmp_path / 'packed.safetensors'))
    assert torch.equal(first.vectors, second.vectors) and torch.equal(first.digests, second.digests)


def paired(place: Path, **more: Any) -> dict[str, Any]:
    """Pairs of slightly changed copies of bob's and eve's photographs and of ann's first two."""
    for name in ('ann/0', 'ann/1', 'bob/0', 'bob/1', 'eve/0'):
        image = imread(place / f'faces/{name}.png') // 2 * 2
        for side in ('lq', 'gt'):
            imwrite(place / side / f'{name}.png', image)
    return {
        'type': 'PairedReferenceDataset',
        **{f'dataroot_{side}': str(place / side) for side in ('lq', 'gt')},
        'dataroot_ref': str(place / 'faces'),
        'embeddings': str(place / 'faces.safetensors'),
        'recognizer': str(place / 'recognizer.pth'),
        **more,
    }


def test_validation_has_the_same_references_each_time_and_never_the_original(place):
    data = build_dataset(paired(place, references=2))
    names = [[Path(name).relative_to(place / 'faces').as_posix() for name in item['ref_path'].split(';') if name]
             for item in map(data.__getitem__, range(5))]  # fmt: skip
    assert names == [['ann/1.png', 'ann/2.png'], ['ann/0.png', 'ann/2.png'], ['bob/1.png'], ['bob/0.png'], []]
    assert [data[v]['identity_mask'].tolist() for v in (0, 2, 4)] == [[True, True], [True, False], [False, False]]
    embedder = FaceEmbedder(place / 'recognizer.pth')
    expected = embedder(to_tensor(imread(place / 'faces/bob/1.png'))[None])[0]
    torch.testing.assert_close(data[2]['identity'][0], expected, atol=1e-3, rtol=0)
    assert not data[4]['identity'].any()


def test_validation_takes_no_copy_of_the_ground_truth_for_a_reference(place):
    opt = paired(place)
    shutil.copy(place / 'faces/bob/1.png', place / 'gt/bob/0.png')
    data = build_dataset(opt)
    assert Path(data.photos.paths[data.chosen[3][0]]).name == '0.png'
    assert data.chosen[2] == []


def test_validation_takes_no_copy_of_the_photograph_that_the_pair_was_made_from(place, tmp_path):
    """The ground truth is that photograph written anew, so that its content does not tell."""
    photos = shutil.copytree(place / 'faces', tmp_path / 'faces')
    shutil.copy(photos / 'ann/1.png', photos / 'ann/0_copy.png')
    data = build_dataset(paired(place, references=9, dataroot_ref=str(photos)))
    names = [sorted(Path(data.photos.paths[index]).name for index in data.chosen[v]) for v in (0, 1)]
    assert names == [['0_copy.png', '1.png', '2.png', '3.png'], ['0.png', '2.png', '3.png']]


def reference_run(stage: int, made: Path, root: Path, **train_options: Any) -> dict[str, Any]:
    """Options of a short run of IDCodeFormer with two references a face and the identity loss."""
    identity = {'type': 'IdentityLoss', 'weights': str(made / 'recognizer.pth'), 'sub_batch': 1}
    opt = stage_options(stage, root, total_iter=2, identity_opt=identity, **train_options)
    keys = ('in_size', 'mean', 'std', 'num_worker_per_gpu', 'batch_size_per_gpu')
    section = options(made, type=KINDS[stage - 2], references=2)
    opt['datasets']['train'] = {**section, **{key: opt['datasets']['train'][key] for key in keys}}
    opt['datasets']['val'] = {**paired(made), 'batch_size_per_gpu': 4}
    opt['network_g'] = {**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_dropout': 0.2}
    opt['network_g']['vqgan_path'] = str(root / 'vqgan.pth')
    opt['network_g']['ia_cft'] = stage == 3
    check_options(opt)
    return opt


@pytest.mark.parametrize('stage', [2, 3])
def test_the_stages_train_with_references(stage, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = reference_run(stage, made, tmp_path, alignment_opt={'loss_weight': 0.1})
    model = train.train(opt)
    assert {'l_ids', 'l_align', 'cross_entropy_loss'} <= set(model.log)
    start = torch.load(tmp_path / 'experiments' / opt['name'] / 'models/net_g_2.pth', weights_only=True)['params']
    moved = [name for name, value in start.items() if name.startswith('id_layers') and 'out' in name and value.any()]
    assert moved, 'the output of the cross-attention starts at zero and must have learnt'
    gates = [value for name, value in start.items() if name.startswith('id_style.gates')]
    assert len(gates) == (stage == 3) and all(gate != 0 for gate in gates)
    assert (tmp_path / 'experiments' / opt['name'] / 'validation_val.csv').is_file()
    if stage == 3:
        batch = default_collate([build_dataset(opt['datasets']['val'])[v] for v in range(5)])
        told, blind = model.infer(batch), model.infer({'lq': batch['lq']})
        assert not torch.equal(told[0], blind[0])
        torch.testing.assert_close(told[4], blind[4])


def test_alignment_without_two_references_names_the_option(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = reference_run(2, made, tmp_path, alignment_opt={'loss_weight': 0.1})
    opt['datasets']['train']['references'] = 1
    with pytest.raises(OptionError, match='datasets:train:references: 2'):
        train.train(opt)


def test_embeddings_of_another_length_than_the_network_expects_name_the_option(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = reference_run(2, made, tmp_path)
    opt['network_g']['identity_dim'] = 512
    with pytest.raises(OptionError, match='network_g:identity_dim: 16'):
        train.train(opt)


ROWS, PAPER = (ROOT / 'experiments' / name / 'options' for name in ('ablation', 'paper_tables'))
FILES = sorted(
    path for folder in (ROOT / 'options', PAPER, ROWS) for path in folder.glob('ID_CodeFormer_[CD]_*stage[23].yml')
)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_option_files_change_nothing_but_what_the_rows_say(path):
    """Rows C and D are row B with a conditioned network and a dataset with references."""
    stage = path.stem[-6:]
    row = path.stem.split('_')[2]
    small = path.parent == ROWS
    opt = load_options(path)
    check_options(opt)
    base = load_options(
        ROOT / 'options' / (f'small/ID_CodeFormer_128_{stage}.yml' if small else f'CodeFormer_{stage}.yml')
    )
    network = opt['network_g']
    assert network.pop('type') == 'IDCodeFormer' and network.pop('identity_dropout') == 0.2
    assert (network.pop('condition_transformer', True), network.pop('ia_cft')) == (True, row == 'D')
    assert network.pop('style_grid', 1) == (16 if row == 'D' and not small else 1)
    stated = Path(RECOGNIZERS[network.pop('recognizer')].file)  # the one whose embeddings the dataset has
    assert stated == Path(opt['datasets']['train']['recognizer']).relative_to('weights')
    assert drop_nulls({'type': 'CodeFormer', **network}) == drop_nulls(base['network_g'])
    data, plain = opt['datasets']['train'], base['datasets']['train']
    assert data.pop('type') == plain.pop('type').replace('FFHQ', 'Reference')
    assert data.pop('references') == (2 if 'align' in path.stem else 1)
    assert data.pop('recognizer') == opt['train']['identity_opt']['weights'] and data.pop('embeddings')
    own = {'name', 'dataroot_gt'}
    assert {k: v for k, v in data.items() if k not in own} == {k: v for k, v in plain.items() if k not in own}
    assert bool(opt['train'].pop('alignment_opt', None)) == ('align' in path.stem)
    assert opt['train'].pop('id_lr_scale') == 4
    if row == 'D' and not small:  # place by place, with its objective; paper_*.yml have the formula
        assert opt['train'].pop('style_opt')['strength'] == 0.08
    for section in ('train', 'val', 'logger', 'network_vqgan'):
        assert opt[section] == base[section]


def test_the_rows_are_there_at_both_scales():
    rows = ('C_{}stage2', 'C_{}stage3', 'D_{}stage3', 'D_align_{}stage3')
    assert {path.stem for path in FILES} == {f'ID_CodeFormer_{row.format(s)}' for row in rows for s in ('', '128_')}


@pytest.mark.parametrize('name', ['references', 'invented'])
def test_what_learns_from_references_alone_on_row_b_is_the_identity_parts(name):
    opt = load_options(ROWS / f'ID_CodeFormer_128_{name}.yml')
    check_options(opt)
    network = build_network({k: v for k, v in opt['network_g'].items() if k != 'vqgan_path'})
    learnt = {name.split('_')[0] for name, value in network.named_parameters() if value.requires_grad}
    assert learnt == {'id', 'position'}
    assert opt['path']['pretrain_network_g'] == 'experiments/ID_CodeFormer_128_stage3/models/net_g_latest.pth'


@pytest.mark.parametrize(
    ('path', 'before'),
    [
        (ROWS / 'ID_CodeFormer_D_128_style.yml', 'experiments/ID_CodeFormer_128_invented/models/net_g_latest.pth'),
        (
            ROOT / 'experiments/small_model/options/ID_CodeFormer_128_style.yml',
            'experiments/ID_CodeFormer_128_stage3_adversarial/models/net_g_latest.pth',
        ),
        (ROOT / 'options/ID_CodeFormer_style.yml', 'weights/CodeFormer/codeformer.pth'),
    ],
)
def test_what_learns_from_a_recognizer_is_the_styling_path_place_by_place(path, before):
    opt = load_options(path)
    check_options(opt)
    with torch.device('meta'):
        network = build_network({k: v for k, v in opt['network_g'].items() if k != 'vqgan_path'})
    assert {name.split('.')[0] for name, value in network.named_parameters() if value.requires_grad} == {'id_style'}
    assert network.id_style.grid == network.latent_side
    assert opt['path']['pretrain_network_g'] == before
    told, judged = (opt['train'][section]['weights'] for section in ('identity_reference', 'style_opt'))
    assert told == judged


def grouped(place: Path, threshold: float) -> tuple[int, Path]:
    output = place / 'who' / 'list.csv'
    arguments = ['-i', str(place / 'faces'), '--embeddings', str(place / 'faces.safetensors'), '-o', str(output)]
    return build_identity_index.main([*arguments, '--threshold', str(threshold)]), output


def test_pairs_are_those_of_the_cosine_matrix_and_links_join_people(monkeypatch):
    monkeypatch.setattr(build_identity_index, 'BLOCK', 7)
    vectors = torch.nn.functional.normalize(torch.randn(30, 4), dim=1)
    cosine = vectors @ vectors.T
    above = build_identity_index.find_pairs(vectors, lambda cosine, part: cosine >= 0.8)
    linked = cosine >= 0.8
    assert {*zip(above.first.tolist(), above.second.tolist(), strict=True)} == {
        tuple(pair) for pair in linked.triu(1).nonzero().tolist()
    }
    people = build_identity_index.group(30, above)
    reachable = torch.linalg.matrix_power((linked | torch.eye(30, dtype=torch.bool)).double(), 30) > 0
    assert np.array_equal(people[:, None] == people[None], reachable.numpy())
    numbers = torch.from_numpy(people)
    apart = build_identity_index.find_pairs(vectors, lambda cosine, part: numbers[part, None] != numbers, 5)
    expected = cosine[(~reachable).triu(1)].sort(descending=True).values
    torch.testing.assert_close(apart.cosine, expected[:5])


def test_the_index_is_what_the_dataset_reads(place, capsys):
    """At a low threshold all are one person, so that everybody has references; at a high one nobody has."""
    code, output = grouped(place, -0.9)
    assert code == 0 and 'people_with_several_faces    1' in capsys.readouterr().out
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert {row['file'] for row in rows} == {f'{name}/{n}.png' for name in PHOTOS for n in range(PHOTOS[name])}
    assert {row['person'] for row in rows} == {'p000000'}
    assert len(build_dataset(options(place, identities=str(output)))) == 7
    assert imread(output.with_name('list_pairs.png')).shape[2] == 3
    assert grouped(place, 0.99999)[0] == 0
    assert '"people": 7' in output.with_suffix('.json').read_text()
    with pytest.raises(DataError, match='nobody has two'):
        build_dataset(options(place, identities=str(output)))


def test_the_index_wants_embeddings_of_every_face(place, capsys):
    imwrite(place / 'faces/bob/2.png', photo(31))
    assert grouped(place, 0.5)[0] == 2
    assert 'run id-codeformer data embed' in capsys.readouterr().err


@pytest.mark.shared
def test_a_real_recognizer_finds_the_people(shared, tmp_path):
    """Five faces of each of three people of multi_id, hats and profiles included: three groups and no other."""
    for person in ('lionel_messi', 'roger_federer', 'serena_williams'):
        for path in sorted((shared / 'data/multi_id' / person).iterdir())[:5]:
            (tmp_path / 'faces').mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / 'faces' / f'{person}-{path.name}')
    weights = shared / 'weights/arcface_mbf512.onnx'
    file = tmp_path / 'faces.safetensors'
    arguments = ['-i', str(tmp_path / 'faces'), '-o', str(file), '--weights', str(weights), '--variants', '1']
    assert embed_references.main(arguments) == 0
    assert grouped(tmp_path, 0.4)[0] == 0
    with (tmp_path / 'who/list.csv').open() as lines:
        groups = {(row['file'].split('-')[0], row['person']) for row in csv.DictReader(lines)}
    assert len(groups) == 3
