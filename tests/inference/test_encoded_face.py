"""Another w for a face that is encoded already: the same picture as from the whole network, for the decoder's work."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from odd_pictures import save
from small import CODEFORMER
from small_faces import Found, Unchanged, aligned_face, blurred_portrait, save_tiny_model

from basicsr.archs import build_network
from basicsr.faces.detection import build_detector
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.code_search import CodeSearch
from basicsr.inference.encoded_face import CachingRestorer
from basicsr.inference.jobs import Job
from basicsr.inference.runner import Runner
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.progress import CancelledError, Step, listen, progress, track

DIM = 16


def counted(restorer: CachingRestorer, *names: str) -> dict[str, int]:
    """How often parts of the network were called from here on."""
    counts = dict.fromkeys(names, 0)

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    for name in names:
        getattr(restorer.network, name).register_forward_hook(count(name))
    return counts


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    torch.manual_seed(2)
    who = build_network({**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': DIM, 'out_scale': 2})
    for parameter in who.parameters():  # nothing at zero, as a fresh one ignores who it restores
        if not parameter.any():
            parameter.data.normal_(std=0.3)
    save_atomic({'params': who.state_dict()}, folder / 'who.pth')
    return {'plain': save_tiny_model(folder / 'plain.pth'), 'who': folder / 'who.pth'}


@torch.no_grad()
@pytest.mark.parametrize('name', ['plain', 'who'])
def test_mixed_precision_keeps_the_codes_and_decodes_in_bf16(models, name):
    mixed, exact = (FaceRestorer(models[name], 'cpu', precision) for precision in ('mixed', 'fp32'))
    kinds = {key: part.dtype for key, part in mixed.network.named_parameters()}
    half = {key for key, kind in kinds.items() if kind == torch.bfloat16}
    assert half == {key for key in kinds if key.startswith(('generator', 'fuse_convs_dict', 'id_style'))}
    known = {'identity': torch.ones(1, DIM)} if name == 'who' else {}
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image, *codes = mixed.network(x, w=0.5, adain=True, **known)
    expected, *same = exact.network(x, w=0.5, adain=True, **known)
    assert image.dtype == torch.float32 and all(map(torch.equal, codes, same))
    assert 0 < (image - expected).abs().max() < 0.1 * expected.abs().max()
    cached = CachingRestorer(models[name], 'cpu', 'mixed').restore(aligned_face(64), 0.5)
    assert np.array_equal(cached[0], mixed.restore(aligned_face(64), 0.5)[0])


@pytest.mark.parametrize('name', ['plain', 'who'])
def test_every_w_gives_the_picture_of_the_whole_network(models, name):
    whole, cached = FaceRestorer(models[name], 'cpu'), CachingRestorer(models[name], 'cpu')
    counts = counted(cached, 'encoder', 'idx_pred_layer', 'generator')
    face = aligned_face(96)
    known = {'identity': torch.nn.functional.normalize(torch.randn(1, DIM), dim=1)} if name == 'who' else {}
    for w, adain in ((0.8, True), (0, True), (1, False), (0.8, True)):
        (wanted,), (found,) = (each.restore(face, w, adain, **known) for each in (whole, cached))
        assert np.abs(wanted.astype(int) - found).max() <= 1
    assert counts == {'encoder': 1, 'idx_pred_layer': 1, 'generator': 4}


def test_another_face_and_another_person_are_encoded_anew(models):
    cached = CachingRestorer(models['who'], 'cpu')
    counts = counted(cached, 'encoder')
    faces, person = [aligned_face(96), aligned_face(64)], torch.eye(2, DIM)
    cached.restore(faces)
    cached.restore(faces)
    assert counts['encoder'] == 2
    first = cached.restore(faces, identity=person)
    cached.restore(faces, identity=person)
    assert counts['encoder'] == 4
    assert not np.array_equal(first[0], cached.restore(faces, identity=person.flip(0))[0])
    cached.restore(faces, identity=person, id_scale=0.5)
    assert counts['encoder'] == 8


def test_what_was_not_used_for_longest_is_dropped(models):
    cached = CachingRestorer(models['plain'], 'cpu', most_bytes=1)
    counts = counted(cached, 'encoder')
    faces = [aligned_face(96), aligned_face(64)]
    for face in (faces[0], faces[0], faces[1], faces[0]):
        cached.restore(face)
    assert counts['encoder'] == 3


def test_codes_are_searched_once(models):
    steps = []

    class Liking(torch.nn.Module):
        def forward(self, faces):
            steps.append(1)
            return faces.mean((2, 3))

    cached = CachingRestorer(models['plain'], 'cpu')
    search = CodeSearch(Liking(), torch.ones(1, 3), steps=2)
    first, again = (cached.restore(aligned_face(64), w, search=search)[0] for w in (0.8, 0.3))
    assert len(steps) == 2 and not np.array_equal(first, again)


def test_a_codeformer_plus_plus_is_decoded_too(models, tmp_path):
    torch.manual_seed(0)
    network = build_network({'type': 'CodeFormerPlusPlus', 'prior_path': str(models['plain'])})
    network.tgrn.last.weight.data.normal_(std=0.1)
    save_atomic({'params': network.state_dict(), 'network_g': network.options}, tmp_path / 'plus.pth')
    whole, cached = FaceRestorer(tmp_path / 'plus.pth', 'cpu'), CachingRestorer(tmp_path / 'plus.pth', 'cpu')
    for w in (1.0, 0.2):
        assert (
            np.abs(whole.restore(aligned_face(64), w)[0].astype(int) - cached.restore(aligned_face(64), w)[0]).max()
            <= 1
        )


def test_threads_get_what_one_thread_gets(models):
    restorers = FaceRestorer(models['plain'], 'cpu'), CachingRestorer(models['plain'], 'cpu')
    images = [ImageRestorer(faces, build_detector('tiny'), force=True, upscale=1) for faces in restorers]
    for restorer in images:
        wanted = restorer.restore(blurred_portrait()).image
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _, restorer=restorer: restorer.restore(blurred_portrait()).image, range(2)))
        assert all(np.array_equal(wanted, image) for image in found)


# Progress and cancelling


def test_steps_are_heard_by_the_thread_that_listens():
    heard: list[Step] = []
    with listen(heard.append):
        assert list(track('ab', 'face')) == ['a', 'b']
        with progress(None, 'frame', 'a.mp4') as step:
            step()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: list(track('cd', 'face'))).result()
    list(track('ef', 'face'))
    assert heard == [Step(1, 2, 'face', ''), Step(2, 2, 'face', ''), Step(1, None, 'frame', 'a.mp4')]


def test_cancelled_work_ends_before_its_next_unit():
    stop, done = threading.Event(), []
    with pytest.raises(CancelledError), listen(cancel=stop):
        for item in track(range(5), 'face'):
            done.append(item)
            if item == 2:
                stop.set()
    assert done == [0, 1, 2]
    with listen(cancel=stop), pytest.raises(CancelledError):
        ImageRestorer(Unchanged(64), Found()).restore(np.zeros((8, 8, 3), np.uint8))


def test_a_cancelled_folder_has_no_further_records(tmp_path):
    stop = threading.Event()

    def restore(faces, w, adain):
        stop.set()
        return faces

    images = ImageRestorer(SimpleNamespace(size=64, input_size=64, batch_size=1, restore=restore), force=True)
    for name in 'abc':
        save(aligned_face(64))(tmp_path / f'{name}.png')
    records = []
    with pytest.raises(CancelledError), listen(cancel=stop):
        jobs = [Job(tmp_path / f'{name}.png', name) for name in 'abc']
        for record in Runner(images, tmp_path / 'out', aligned=True).run(jobs):
            records.append(record)
    assert [record.status for record in records] == ['restored']
