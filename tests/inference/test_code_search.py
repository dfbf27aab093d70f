"""The search for codes that show a known person: what it changes, what it leaves, and who asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_faces import aligned_face, portrait, save_tiny_model
from small_recognizer import save_tiny

from basicsr.cli import restore as inference_codeformer
from basicsr.inference import FaceRestorer
from basicsr.inference.code_search import CodeSearch
from basicsr.inference.identity_conditioner import OWN, IdentityConditioner
from basicsr.inference.people import Person
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.image import imread, imwrite, to_tensor

DIM = 16


@pytest.fixture(scope='module')
def here(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('search')
    save_tiny_model(root / 'net.pth')
    save_tiny(root / 'recognizer.pth')
    imwrite(root / 'in' / 'face.png', aligned_face(64))
    imwrite(root / 'me.png', portrait())
    return root


@pytest.fixture(scope='module')
def embedder(here) -> FaceEmbedder:
    return FaceEmbedder(here / 'recognizer.pth')


@pytest.fixture
def restorer(here) -> FaceRestorer:
    return FaceRestorer(here / 'net.pth', 'cpu')


def target(seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(seed)), dim=0)


def likeness(embedder: FaceEmbedder, face: np.ndarray, whose: torch.Tensor) -> float:
    with torch.no_grad():
        return float(embedder(to_tensor(face)[None])[0] @ whose)


@pytest.mark.parametrize('w', [0.0, 0.8])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_faces_become_like_the_person_searched_for(here, embedder, w, precision):
    restorer = FaceRestorer(here / 'net.pth', 'cpu', precision)
    face = aligned_face(64)
    blind = restorer.restore(face, w)[0]
    for seed in (0, 1):
        found = restorer.restore(face, w, search=CodeSearch(embedder, target(seed)[None]))[0]
        assert likeness(embedder, found, target(seed)) > likeness(embedder, blind, target(seed)) + 0.02


def test_what_is_found_are_codes_of_the_codebook(restorer, embedder):
    """Unlike a search among features, which leaves what the decoder has learnt to decode."""
    network, face = restorer.network, to_tensor(aligned_face(64))[None]
    with torch.no_grad():
        logits, _ = network(face, code_only=True)
        image, found, _ = network(face, search=CodeSearch(embedder, target()[None]))
        assert not torch.equal(found.argmax(2), logits.argmax(2))
        assert torch.equal(image, network.decode(network.lookup_codes(found), {}, 0))


def test_a_search_leaves_no_gradient_and_gives_the_same_twice_in_any_mode(restorer, embedder):
    face, search = aligned_face(64), CodeSearch(embedder, target()[None], 3)
    first = restorer.restore(face, search=search)[0]
    with torch.inference_mode():
        found = CodeSearch(embedder, target()[None], 3)
        assert np.array_equal(restorer.restore(face, search=found)[0], first)
    assert all(value.grad is None for value in (*restorer.network.parameters(), *embedder.network.parameters()))


def test_faces_of_unknown_people_stay_as_they_are(restorer, embedder):
    faces = [aligned_face(64), np.flipud(aligned_face(64)).copy()]
    targets = torch.stack([torch.zeros(DIM), target()])
    blind = [restorer.restore(face)[0] for face in faces]
    found = restorer.restore(faces, search=CodeSearch(embedder, targets, 4))
    assert np.array_equal(found[0], blind[0]) and not np.array_equal(found[1], blind[1])
    render = lambda logits: restorer.network.decode(restorer.network.lookup_codes_ste(logits), {}, 0)  # noqa: E731
    logits = torch.randn(2, 256, 64, generator=torch.Generator().manual_seed(5))
    moved = CodeSearch(embedder, targets, 4)(logits, render)
    assert torch.equal(moved[0], logits[0]) and not torch.equal(moved[1], logits[1])


def test_gradients_of_fp16_do_not_vanish(restorer, embedder):
    """At 512 pixels those at the picture are near the smallest number of fp16; here they are made as small."""
    start = torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(5))

    def render(logits: torch.Tensor, small: float = 2.0**-20) -> torch.Tensor:
        faces = restorer.network.decode(restorer.network.lookup_codes_ste(logits), {}, 0)
        faces.register_hook(lambda gradient: (gradient * small).half().float() / small)
        return faces

    with torch.no_grad():
        blind = restorer.network.decode(restorer.network.lookup_codes(start), {}, 0)
        found = restorer.network.decode(
            restorer.network.lookup_codes(CodeSearch(embedder, target()[None])(start, render)), {}, 0
        )
        assert embedder(found)[0] @ target() > embedder(blind)[0] @ target() + 0.02


def test_the_recognizer_never_sees_a_face_twice_at_one_place():
    """Else what is found deceives it, and looks like nobody."""
    face, shown = to_tensor(aligned_face(160))[None], []

    def embed(faces: torch.Tensor) -> torch.Tensor:
        shown.append(faces.detach())
        return faces.mean((2, 3))

    CodeSearch(embed, torch.ones(1, 3), 6)(torch.zeros(1, 2, 2), lambda logits: face + 0 * logits.sum())
    reach = range(-4, 5)  # a fortieth of the side
    views = {
        (mirrored, y, x): (face.flip(3) if mirrored else face).roll((y, x), (2, 3))
        for mirrored in (False, True) for y in reach for x in reach
    }  # fmt: skip
    assert [len(each) for each in shown] == [2] * 6
    pictures = torch.cat(shown)[:, None]
    seen = [next(view for view, picture in views.items() if torch.equal(picture, each)) for each in pictures]
    assert [mirrored for mirrored, *_ in seen] == [False, True] * 6
    assert len(set(seen)) == 12


def test_a_search_may_have_more_steps_than_there_are_places():
    shown = []

    def embed(faces: torch.Tensor) -> torch.Tensor:
        shown.append(faces.detach())
        return faces.mean((2, 3))

    face = to_tensor(aligned_face(64))[None]
    CodeSearch(embed, torch.ones(1, 3), 27)(torch.zeros(1, 2, 2), lambda logits: face + 0 * logits.sum())
    assert len({each.numpy().tobytes() for each in shown}) == 25  # 5 x 5 places, then the first again
    assert torch.equal(shown[25], shown[0]) and torch.equal(shown[26], shown[1])


def test_a_search_that_does_not_fit_is_an_error(restorer, embedder):
    with pytest.raises(ValueError, match='0 steps'):
        CodeSearch(embedder, target()[None], 0)
    with pytest.raises(ValueError, match='2 targets of a search for 1 faces'):
        restorer.restore(aligned_face(64), search=CodeSearch(embedder, torch.zeros(2, DIM)))


def test_only_people_with_references_are_searched_for(embedder):
    known, own = Person('me', (Path('me.png'),), target()[None]), Person(OWN, (), target(1)[None])
    guide = IdentityConditioner(embedder, search_steps=7)
    search = guide.condition([None, known, own])['search']
    assert search.steps == 7 and torch.allclose(search.targets[1], target())
    assert not search.targets[0].any() and not search.targets[2].any()
    assert guide.condition([None, own]) == {}
    assert IdentityConditioner(embedder).condition([known]) == {}


def test_references_guide_a_network_that_cannot_be_told(here, tmp_path, capsys):
    def run(name: str, expected: int, *flags: object) -> tuple[dict, str]:
        argv = ['-i', here / 'in', '-o', tmp_path / name, '--model', here / 'net.pth', '--device', 'cpu']
        argv += ['--has_aligned', '--ref', here / 'me.png', '--recognizer', here / 'recognizer.pth', *flags]
        assert inference_codeformer.main([str(value) for value in argv]) == expected
        return json.loads((tmp_path / name / 'summary.json').read_text()), capsys.readouterr().out

    blind, plain = run('blind', 1, '--id_search', 0)  # the references had no effect
    found, said = run('found', 0)
    assert 'codes are searched' in said and 'codes are searched' not in plain
    assert (blind['who']['search_steps'], found['who']['search_steps']) == (0, 5)
    (before,), (after,) = blind['files'][0]['identity'], found['files'][0]['identity']
    assert after['after'] > before['after'] + 0.02
    faces = [imread(tmp_path / name / 'restored_faces' / 'face.png') for name in ('blind', 'found')]
    assert not np.array_equal(*faces)
