"""Who the people in pictures are: references read and checked, faces matched, the network told, likeness measured."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_faces import ASTRONAUT_LANDMARKS, TINY, Found, aligned_face, blurred_portrait, portrait, save_tiny_model
from small_recognizer import save_tiny

from basicsr.archs import build_network
from basicsr.cli import restore as inference_codeformer
from basicsr.cli.data_pairs import SEVERITIES, make_pair
from basicsr.faces.detection import Face, build_detector
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.auto_fidelity import ALLOWANCE, CANDIDATES, choose_fidelity, fidelity_from, sharpness_of
from basicsr.inference.build_conditioner import CALIBRATIONS, IdentityConfig, build_conditioner
from basicsr.inference.found_face import FoundFace
from basicsr.inference.identity_conditioner import OWN, IdentityConditioner
from basicsr.inference.identity_meter import MARGIN, FaceIdentity, average, compare
from basicsr.inference.jobs import Job
from basicsr.inference.people import LOW_CONFIDENCE, LOW_SHARE, THRESHOLD, People, Person, as_identity
from basicsr.inference.reference_cache import ReferenceCache
from basicsr.inference.references import BadReferenceError, ReferenceReader, gather
from basicsr.inference.runner import Runner
from basicsr.recognition.choose import choose_recognizer, embed_faces
from basicsr.recognition.confidence import Calibration, InputIdentity
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.registry import RECOGNIZERS, SHIPPED
from basicsr.utils.checkpoint import CheckpointError, save_atomic
from basicsr.utils.download import sha256_of
from basicsr.utils.image import imread, imwrite, to_tensor
from basicsr.video.track_identity import MEASURE_EVERY, TrackIdentities

DIM = 16
RED, GREEN, BLUE = np.eye(3, dtype=int) * 180
FACE = Face(np.array([120.0, 40, 300, 220]), 1.0, ASTRONAUT_LANDMARKS)


class ByColour(torch.nn.Module):
    """A stand-in for a recognizer: people differ in the colour of their faces."""

    dim, name, recognizer = 3, 'colours', RECOGNIZERS['arcface_mbf512']

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(1, 1)

    def forward(self, faces):
        middle = faces[:, :, 64:192, 64:192].mean((2, 3)) + 1
        return F.normalize(middle - middle.mean(1, keepdim=True), dim=1)


class Noting:
    """A stand-in for FaceRestorer that notes what it is told and returns the faces as they are."""

    size = input_size = 64
    batch_size, takes_identity = 8, True

    def __init__(self) -> None:
        self.told = []

    def restore(self, faces, w=0.8, adain=True, **known):
        self.told.append(known)
        return [cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA) for face in faces]


def tinted(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.clip(image // 4 + colour // 2, 0, 255).astype(np.uint8)


def vector(*values: float) -> torch.Tensor:
    return F.normalize(torch.tensor(values, dtype=torch.float32), dim=0)


def person(name: str, *vectors: torch.Tensor) -> Person:
    return Person(name, tuple(Path(f'{name}{i}.png') for i in range(len(vectors))), torch.stack(vectors))


def of_colour(name: str, colour: np.ndarray) -> Person:
    (seen,) = embed_faces(ByColour(), [tinted(aligned_face(64), colour)])
    return person(name, seen)


def save_id_model(path: Path, recognizer: str | None = None, **options) -> Path:
    """An IDCodeFormer of 64 pixels whose identity does something, as a training checkpoint or a released file."""
    torch.manual_seed(2)
    config = {**TINY, 'type': 'IDCodeFormer', 'identity_dim': DIM, **options}
    config |= {'recognizer': recognizer} if recognizer else {}
    network = build_network(config)
    with torch.no_grad():
        for cross in network.id_layers:
            cross.out.weight.normal_(std=0.5)
        for gate in network.id_style.gates.values():
            gate.fill_(0.5)
    if path.suffix == '.safetensors':
        state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
        save_file(state, path, metadata={'network': json.dumps(config), 'format': 'pt'})
    else:
        save_atomic({'params_ema': network.state_dict(), 'network': config}, path)
    return path


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """`id.pth`, `plain.pth`, `recognizer.pth`, `me.png` and the face to restore, `in/face.png`."""
    root = tmp_path_factory.mktemp('files')
    save_id_model(root / 'id.pth')
    save_tiny_model(root / 'plain.pth')
    save_tiny(root / 'recognizer.pth')
    imwrite(root / 'me.png', portrait())
    imwrite(root / 'in' / 'face.png', aligned_face(64))
    return root


@pytest.fixture
def run(files, tmp_path, capsys):
    """Call the command line on the aligned face; exit code, summary, screen and errors."""

    def call(*flags, model='id.pth', aligned=True, source='in'):
        output, place = tmp_path / 'out', files / source
        argv = ['-i', str(place), '-o', str(output), '--model', str(files / model), '--device', 'cpu', *map(str, flags)]
        code = inference_codeformer.main([*argv, *(['--has_aligned'] if aligned else [])])
        screen = capsys.readouterr()
        summary = json.loads((output / 'summary.json').read_text()) if code != 2 else {}
        return code, summary, screen.out, screen.err

    return call


def written_face(tmp_path: Path) -> np.ndarray:
    return imread(tmp_path / 'out' / 'restored_faces' / 'face.png')


# Files and folders of references


def test_what_is_one_person_and_what_are_several(tmp_path):
    for name in (
        'one/a.png',
        'one/b.jpg',
        'one/.c.png',
        'one/notes.txt',
        'all/ann/x/1.png',
        'all/bob/1.png',
        'all/.no/1.png',
    ):
        imwrite(tmp_path / 'blank.png', np.zeros((4, 4, 3), np.uint8))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((tmp_path / 'blank.png').read_bytes())
    one, everybody = tmp_path / 'one', tmp_path / 'all'
    assert gather([one]) == ({'one': [one / 'a.png', one / 'b.jpg']}, True)
    assert gather([one / 'b.jpg', tmp_path / 'blank.png']) == (
        {'reference': [one / 'b.jpg', tmp_path / 'blank.png']},
        True,
    )
    assert gather([everybody]) == ({'ann': [everybody / 'ann/x/1.png'], 'bob': [everybody / 'bob/1.png']}, False)
    with pytest.raises(BadReferenceError, match=r'a\.png lies beside folders of people \(ann, bob\)'):
        gather([one, everybody])
    (one / 'notes').mkdir()
    (one / 'notes' / 'who.txt').touch()
    assert gather([one]) == ({'one': [one / 'a.png', one / 'b.jpg']}, True)


def test_paths_that_hold_nothing_are_errors(tmp_path):
    (tmp_path / 'empty' / 'sub').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match='nowhere: no such file or folder'):
        gather([tmp_path / 'nowhere'])
    with pytest.raises(FileNotFoundError, match='empty: no pictures in it'):
        gather([tmp_path / 'empty'])


BAD = {
    'nobody.png': (lambda: cv2.GaussianBlur(portrait(), (0, 0), 60), 'no face found'),
    'small.png': (lambda: cv2.resize(portrait(), None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA), 'pixels; give'),
    'blurred.png': (lambda: cv2.GaussianBlur(portrait(), (0, 0), 4), 'too blurred'),
    'two.png': (lambda: np.hstack([portrait(), portrait()]), '2 faces, and it is not clear who is meant'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_reference_that_tells_nothing_is_left_out_with_its_name_and_what_to_do(tmp_path, name):
    make, message = BAD[name]
    imwrite(tmp_path / name, make())
    imwrite(tmp_path / 'good.png', portrait())
    reader = ReferenceReader(build_detector(), ByColour())
    people = reader([tmp_path])
    assert [file.name for file in people.persons[0].files] == ['good.png']
    (note,) = people.notes
    assert name in note and message in note and note.endswith('left out')
    with pytest.raises(BadReferenceError, match=f'no reference can be used: .*{name}.*{message}'):
        ReferenceReader(build_detector(), ByColour())([tmp_path / name])


@pytest.mark.parametrize('content', [b'', b'no picture', b'\x89PNG\r\n\x1a\n'])
def test_a_damaged_reference_is_named(tmp_path, content):
    (tmp_path / 'bad.png').write_bytes(content)
    with pytest.raises(BadReferenceError, match=r'bad\.png: '):
        ReferenceReader(Found(FACE), ByColour())([tmp_path / 'bad.png'])


def test_a_reference_whose_landmarks_are_uncertain_is_left_out(tmp_path):
    imwrite(tmp_path / 'a.png', portrait())
    with pytest.raises(BadReferenceError, match=r'a\.png: two looks at the face disagree'):
        ReferenceReader(Found(replace(FACE, consistent=False)), ByColour())([tmp_path / 'a.png'])


def test_a_reference_that_is_turned_is_taken_upright(tmp_path):
    crops = []
    for quarters in (0, 1, 2):
        imwrite(tmp_path / f'{quarters}.png', np.rot90(portrait(), quarters))
        crops.append(ReferenceReader(build_detector(), ByColour())._cut_out(tmp_path / f'{quarters}.png', []))
    for crop in crops[1:]:
        assert np.abs(crop.astype(int) - crops[0]).mean() < 20  # 70 where it is turned otherwise


def test_a_clearly_larger_face_is_taken_and_that_is_said(tmp_path):
    small = cv2.resize(portrait(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    imwrite(tmp_path / 'both.png', np.hstack([np.vstack([small, small[::-1]]), portrait()]))
    people = ReferenceReader(build_detector(), ByColour())([tmp_path / 'both.png'])
    assert len(people.persons[0].files) == 1
    assert 'both.png: ' in people.notes[0] and 'the largest is taken' in people.notes[0]


def test_references_that_disagree(tmp_path):
    colours = {'a.png': RED, 'b.png': RED, 'c.png': BLUE, 'd.png': RED}
    for name, colour in colours.items():
        imwrite(tmp_path / 'majority' / name, tinted(portrait(), colour))
    people = ReferenceReader(Found(FACE), ByColour())([tmp_path / 'majority'])
    assert [file.name for file in people.persons[0].files] == ['a.png', 'b.png', 'd.png']
    (note,) = people.notes
    assert "c.png: not the person whom most references of 'majority' show" in note
    for names in (('a.png', 'c.png'), ('c.png', 'a.png')):
        with pytest.raises(BadReferenceError, match=r'different people.*a\.png against .*c\.png; remove the wrong'):
            ReferenceReader(Found(FACE), ByColour())([tmp_path / 'majority' / name for name in names])


def test_a_person_without_usable_reference_is_left_out_and_the_others_stay(tmp_path):
    imwrite(tmp_path / 'ann' / '1.png', portrait())
    (tmp_path / 'bob').mkdir()
    people = ReferenceReader(Found(FACE), ByColour())([tmp_path])
    assert [p.name for p in people.persons] == ['ann'] and not people.only
    assert people.notes == ["nobody is restored as 'bob': no reference is left"]


# Embeddings that are kept


class Counting(Found):
    """Counts the pictures that it looks at."""

    count = 0

    def detect(self, image):
        self.count += 1
        return super().detect(image)


def test_photographs_are_looked_at_once_for_a_detector_and_a_recognizer(tmp_path):
    for name, colour in {'a.png': RED, 'b.png': RED, 'c.png': BLUE}.items():
        imwrite(tmp_path / 'people' / name, tinted(portrait(), colour))
    detector, cache = Counting(FACE), ReferenceCache('one', tmp_path / 'cache')
    first = ReferenceReader(detector, ByColour(), cache=cache)([tmp_path / 'people'])
    again = ReferenceReader(detector, ByColour(), cache=cache)([tmp_path / 'people'])
    assert detector.count == 3 and again.notes == first.notes and len(first.notes) == 1
    assert torch.equal(first.persons[0].vectors, again.persons[0].vectors)
    imwrite(tmp_path / 'people' / 'b.png', tinted(portrait(), BLUE))  # a change is seen
    os.utime(tmp_path / 'people' / 'b.png', (1, 1))
    changed = ReferenceReader(detector, ByColour(), cache=cache)([tmp_path / 'people'])
    assert detector.count == 4 and [file.name for file in changed.persons[0].files] == ['b.png', 'c.png']
    ReferenceReader(detector, ByColour(), cache=replace(cache, made_with='another'))([tmp_path / 'people'])
    assert detector.count == 7
    for file in (tmp_path / 'cache').rglob('*.safetensors'):
        file.write_bytes(b'damaged')
    ReferenceReader(detector, ByColour(), cache=cache)([tmp_path / 'people'])
    assert detector.count == 10


def test_what_was_left_out_is_said_of_kept_photographs_too(tmp_path):
    imwrite(tmp_path / 'people' / 'good.png', portrait())
    imwrite(tmp_path / 'people' / 'blurred.png', cv2.GaussianBlur(portrait(), (0, 0), 4))
    (tmp_path / 'people' / 'bad.png').write_bytes(b'no picture')
    read = ReferenceReader(Counting(FACE), ByColour(), cache=ReferenceCache('one', tmp_path / 'cache'))
    notes = [read([tmp_path / 'people']).notes for _ in range(2)]
    assert notes[0] == notes[1] and ['too blurred' in note for note in notes[0]] == [False, True]
    assert all(str(tmp_path / 'people') in note and note.endswith('left out') for note in notes[0])


def test_photographs_are_held_only_for_networks_that_are_shown_them(tmp_path):
    imwrite(tmp_path / 'a.png', portrait())
    kept = [ReferenceReader(Found(FACE), ByColour(), keeps_photos=keeps)([tmp_path]).persons[0] for keeps in (0, 1)]
    assert kept[0].crops is None and kept[1].crops.shape == (1, 3, 256, 256)


# Matching


def test_faces_find_their_person_and_a_person_is_one_face_at_most():
    ann, bob = person('ann', vector(1, 0, 0), vector(1, 0.2, 0)), person('bob', vector(0, 1, 0))
    people = People((ann, bob), 0.3)
    faces = torch.stack([vector(0, 0, 1), vector(0.2, 1, 0), vector(1, 0.1, 0), vector(1, 0.5, 0)])
    assert people.match(faces) == [None, bob, ann, None]
    assert people.match(faces, taken=[ann]) == [None, bob, None, None]
    assert people.match(faces[:1]) == [None]


def assumed(
    cosine: float, confidence: float, threshold: float = 0.3, only: bool = True, strangers: float = 0.0
) -> bool:
    people = People((person('ann', vector(1, 0)),), threshold, only, strangers=strangers)
    found = people.assume(torch.tensor([cosine, (1 - cosine**2) ** 0.5]), lambda: confidence)
    assert found is None or (found.assumed and found.name == 'ann')
    return found is not None


def test_only_a_face_that_is_too_damaged_to_be_recognized_is_assumed_to_be_the_only_person():
    below, above = LOW_CONFIDENCE - 0.01, LOW_CONFIDENCE + 0.01
    assert assumed(0.15, below) and not assumed(0.15, above) and not assumed(0.29, above)
    assert not assumed(0.3 * LOW_SHARE - 0.01, below) and assumed(0.3 * LOW_SHARE + 0.01, below)
    assert not assumed(0.15, below, only=False) and not assumed(0.15, below, threshold=0.6)
    assert not assumed(0.21, below, 0.5, strangers=0.1) and assumed(0.25, below, 0.5, strangers=0.1)


def test_the_threshold_is_the_smallest_cosine_that_matches():
    ann, face = person('ann', vector(1, 0)), vector(0.6, 0.8)[None]
    assert People((ann,), 0.59).match(face) == [ann]
    assert People((ann,), 0.61).match(face) == [None]


def test_identities_of_a_batch_are_padded_and_masked():
    ann, own = person('ann', vector(1, 0), vector(0, 1)), Person(OWN, (), vector(3, 4)[None], 0.25)
    identity, mask = as_identity([None, ann, own], 2)
    assert identity.tolist() == [[[0, 0], [0, 0]], [[1, 0], [0, 1]], [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]]
    assert mask.tolist() == [[0, 0], [1, 1], [0.25, 0]]


# The network is told


def test_a_network_is_told_in_batches_what_it_would_be_told_one_by_one(files):
    restorer = FaceRestorer(files / 'id.pth', device='cpu', batch_size=2)
    crops = [aligned_face(64), aligned_face(64)[:, ::-1].copy(), 255 - aligned_face(64)]
    ann, bob = (person(name, *F.normalize(torch.randn(count, DIM), dim=1)) for name, count in (('ann', 2), ('bob', 1)))
    identity, mask = as_identity([ann, None, bob], DIM)
    together = restorer.restore(crops, 0.5, identity=identity, mask=mask)
    for crop, known, result in zip(crops, (ann, None, bob), together, strict=True):
        told = {'identity': known.vectors[None]} if known else {}
        with torch.inference_mode():
            direct = restorer.network(to_tensor(crop)[None], w=0.5, adain=True, **told)[0][0]
        assert np.abs((direct.numpy().transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5 - result).max() <= 1.01
    blind = restorer.restore(crops, 0.5)
    assert [np.array_equal(a, b) for a, b in zip(together, blind, strict=True)] == [False, True, False]
    more = restorer.restore(crops, 0.5, identity=identity, mask=mask, id_scale=2)
    assert not np.array_equal(more[0], together[0]) and np.array_equal(more[1], together[1])


def test_identities_that_do_not_fit_are_errors(files):
    crop, identity = aligned_face(64), torch.ones(1, DIM)
    restorer = FaceRestorer(files / 'id.pth', device='cpu')
    with pytest.raises(ValueError, match='1 identities for 2 faces'):
        restorer.restore([crop, crop], identity=identity)
    with pytest.raises(ValueError, match=r'id_scale = 2\.1: must be from 0 to 2'):
        restorer.restore(crop, identity=identity, id_scale=2.1)
    with pytest.raises(ValueError, match='cannot be told who the faces are'):
        FaceRestorer(files / 'plain.pth', device='cpu').restore(crop, identity=identity)


def test_only_those_who_are_known_are_told_of(monkeypatch):
    """Three faces in a picture: the one of the person, a stranger, and one that is left alone."""
    noting, ann = Noting(), of_colour('ann', RED)
    guide = IdentityConditioner(ByColour(), People((ann,), 0.3, only=True), tells_people=True, id_scale=1.5)
    images = ImageRestorer(noting, guide=guide)
    crops = [tinted(aligned_face(64), colour) for colour in (GREEN, RED)]
    done = images.faces.restore_faces([FoundFace(crop, None, 'restored') for crop in crops])
    assert [face.person for face in done] == [None, ann]
    (told,) = noting.told
    assert told['id_scale'] == 1.5 and told['mask'].tolist() == [[0], [1]]
    assert torch.equal(told['identity'][1, 0], ann.vectors[0])
    assert [face.likeness.compared_with for face in done] == ['input', 'reference']
    assert [face.likeness.person for face in done] == [None, 'ann']
    images.restore_aligned(crops)  # each alone in its picture
    assert noting.told[-1]['mask'].tolist() == [[0], [1]]


@pytest.mark.parametrize('confidence', [LOW_CONFIDENCE - 0.1, LOW_CONFIDENCE + 0.1, None])
@pytest.mark.parametrize('whole', [True, False])
def test_a_stranger_alone_is_restored_blind_unless_too_damaged_to_tell(confidence, whole):
    noting, ann = Noting(), person('ann', vector(1, -0.4, 0.1))
    own = confidence and (lambda faces: (torch.zeros(len(faces), 3), torch.full((len(faces),), confidence)))
    guide = IdentityConditioner(ByColour(), People((ann,), 0.98, only=True), own, 64, tells_people=True)
    images = ImageRestorer(noting, Found(FACE), guide=guide, force=True, upscale=1)
    picture = tinted(portrait() if whole else aligned_face(64), RED)
    (face,) = images.restore(picture).faces if whole else images.restore_aligned([picture])
    assert face.likeness.nearest_cosine > 0.4 if face.person is None else face.likeness.before < 0.98
    if confidence and confidence < LOW_CONFIDENCE:
        assert face.person.assumed and noting.told[0]['mask'].tolist() == [[1]]
        assert 'too damaged to be recognized' in face.likeness.warning and 'taken for ann' in face.likeness.warning
    else:
        assert face.person is None and noting.told == [{}]
        assert f'cosine with ann, {face.likeness.nearest_cosine:.2f}, is below 0.98' in face.likeness.warning
        insisted = float(face.likeness.warning.split('--id_threshold ')[1].split(';')[0])
        people = replace(guide.people, threshold=insisted)
        (face,) = ImageRestorer(noting, guide=replace(guide, people=people)).restore_aligned([face.crop])
        assert face.person is ann and noting.told[-1]['mask'].tolist() == [[1]]


def test_a_network_that_does_not_listen_is_told_nothing_but_measured():
    noting = Noting()
    guide = IdentityConditioner(ByColour(), People((of_colour('ann', RED),), 0.3, only=True), tells_people=False)
    (face,) = ImageRestorer(noting, guide=guide).restore_aligned([tinted(aligned_face(64), RED)])
    assert noting.told == [{}] and face.likeness.compared_with == 'reference'


def test_without_reference_the_input_tells_of_itself_as_far_as_it_is_trusted():
    own = lambda faces: (torch.full((len(faces), 3), 0.5), torch.full((len(faces),), 0.25))  # noqa: E731
    ann, crops = of_colour('ann', RED), [tinted(aligned_face(64), colour) for colour in (RED, GREEN)]
    people = People((ann,), 0.3)
    noting = Noting()
    guide = IdentityConditioner(ByColour(), people, own, 64, tells_people=True, tells_own=True)
    done = ImageRestorer(noting, guide=guide).restore_aligned(crops)
    assert noting.told[0]['mask'].tolist() == [[1], [0.25]]
    assert noting.told[0]['identity'][1, 0].tolist() == [0.5] * 3
    assert [face.likeness.compared_with for face in done] == ['reference', 'input']
    quiet = IdentityConditioner(ByColour(), people, own, 64, tells_people=True, tells_own=False)
    ImageRestorer(noting, guide=quiet).restore_aligned(crops)
    assert noting.told[-1]['mask'].tolist() == [[1], [0]]


# Likeness


def test_a_restoration_is_to_be_like_the_references_or_else_like_the_input():
    seen, own = vector(1, 0), Person(OWN, (), vector(0, 1)[None], 0.2)
    for who, target in ((own, seen), (None, seen), (person('ann', vector(0, 1)), vector(0, 1))):
        assert torch.equal(IdentityConditioner.target(seen, who), target)


def test_likeness_before_and_after_is_the_cosine_with_the_mean_reference():
    ann = person('ann', vector(1, 0), vector(0, 1))
    found = compare(vector(1, 0), vector(1, 0.5), ann, 0.8)
    after = float(vector(1, 0.5) @ vector(1, 1))
    assert (found.compared_with, found.person, found.w, found.warning) == ('reference', 'ann', 0.8, '')
    assert found.before == pytest.approx(0.5**0.5, abs=1e-4) and found.after == pytest.approx(after, abs=1e-4)


@pytest.mark.parametrize(('drop', 'warned'), [(MARGIN - 0.005, False), (MARGIN + 0.005, True), (-0.2, False)])
def test_moving_away_from_the_person_is_warned_of(drop, warned):
    ann, before = person('ann', vector(1, 0)), 0.6
    seen, restored = (torch.tensor([c, (1 - c**2) ** 0.5]) for c in (before, before - drop))
    warning = compare(seen, restored, ann, 0.5).warning
    assert (warning == 'less like ann than the input was; try a higher -w') is warned and bool(warning) is warned
    assert 'higher -w' not in compare(seen, restored, ann, 1.0).warning


@pytest.mark.parametrize(('before', 'doubted'), [(THRESHOLD - 0.01, True), (THRESHOLD + 0.01, False)])
def test_an_input_that_is_hardly_the_person_of_the_references_is_doubted(before, doubted):
    seen, restored = (torch.tensor([c, (1 - c**2) ** 0.5]) for c in (before, before + 0.3))
    warning = compare(seen, restored, person('ann', vector(1, 0)), 0.8).warning
    assert warning == ('the input is hardly like ann: is it ann?' if doubted else '')


def test_without_reference_a_face_that_is_somebody_else_is_warned_of():
    assert compare(vector(1, 0), vector(1, 0.1), None, 0.5).warning == ''
    found = compare(vector(1, 0), vector(0.1, 1), Person(OWN, (), vector(1, 0)[None]), 0.5)
    assert found.before is None and found.compared_with == 'input' and 'hardly the person of the input' in found.warning


def test_a_face_that_is_nobody_is_compared_with_the_input_and_the_most_similar_person_is_named():
    people = People((person('ann', vector(1, 0)), person('bob', vector(0, 1))), 0.9)
    found = compare(vector(1, 2), vector(1, 2), None, 1, people)
    assert (found.compared_with, found.person, found.before) == ('input', None, None)
    assert (found.nearest, found.nearest_cosine) == ('bob', pytest.approx(0.8944, abs=1e-4))
    assert 'cosine with bob, 0.89, is below 0.9; if it is bob, insist with --id_threshold 0.89' in found.warning
    other = compare(vector(1, 2), vector(1, 2), None, 1, replace(people, threshold=0.5))
    assert other.warning == 'taken for nobody: another face of the picture is bob'
    frames = [replace(found, nearest_cosine=value) for value in (0.5, 0.7)]
    assert average(3, frames, people).nearest_cosine == pytest.approx(0.6)
    assert '0.60, is below 0.9' in average(3, frames, people).warning


def test_likeness_in_a_clip_is_the_mean():
    frames = [FaceIdentity(0, 'reference', 'ann', before, after, 0.5) for before, after in ((0.5, 0.3), (0.7, 0.5))]
    found = average(4, frames)
    assert (found.face, found.before, found.after) == (4, pytest.approx(0.6), pytest.approx(0.4))
    assert 'less like ann' in found.warning


# -w auto


def test_the_sharpest_of_those_that_are_hardly_less_alike():
    likeness = [0.50, 0.60, 0.60 + ALLOWANCE * 0.7, 0.60 + ALLOWANCE * 0.9, 0.4]
    assert choose_fidelity(likeness, [9, 5, 3, 1, 9]) == 1
    assert choose_fidelity(likeness, [5, 5, 5, 5, 5]) == 3


def test_sharpness_falls_with_blur_and_noise_does_not_count():
    sharp = cv2.resize(portrait()[40:220, 130:310], (128, 128), interpolation=cv2.INTER_AREA)
    values = [sharpness_of(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (0.3, 0.8, 2)]
    assert sharpness_of(sharp) >= values[0] > values[1] > values[2]
    flat = cv2.GaussianBlur(sharp, (0, 0), 3).astype(float)
    noisy = np.clip(flat + np.random.default_rng(0).normal(0, 12, flat.shape), 0, 255).astype(np.uint8)
    assert sharpness_of(noisy) < values[0] / 2


def test_each_face_gets_the_weight_that_suits_it():
    """Fidelity turns green faces red, and leaves red ones as they are but blurs them."""

    class Bending(Noting):
        def restore(self, faces, w=0.8, adain=True, **known):
            self.told.append(w)
            faces = super().restore(faces)
            del self.told[-1]
            bent = [np.roll(face, 0, 2) if w < 0.5 else cv2.GaussianBlur(face, (0, 0), 4 * w) for face in faces]
            swap = [1, 0, 2]
            return [
                face[:, :, swap] if w >= 0.5 and face[..., 1].mean() > face[..., 0].mean() else face for face in bent
            ]

    network = Bending()
    guide = IdentityConditioner(ByColour(), People((of_colour('ann', RED),), -1, only=True))
    sharp = cv2.resize(portrait()[40:220, 130:310], (64, 64), interpolation=cv2.INTER_AREA)
    done = ImageRestorer(network, guide=guide, choose_w=True, force=True).restore_aligned(
        [tinted(sharp, RED), tinted(sharp, GREEN)]
    )
    assert network.told == list(CANDIDATES)
    red, green = done
    assert red.w == red.likeness.w < 0.5 and np.array_equal(red.restored, tinted(sharp, RED))
    assert green.w == green.likeness.w == 0.5
    assert green.likeness.after > green.likeness.before + 0.5
    with pytest.raises(ValueError, match='needs a face recognizer'):
        ImageRestorer(network, choose_w=True)


def test_without_reference_w_is_the_confidence_in_the_input_and_costs_one_restoration():
    def own(faces):
        return torch.zeros(len(faces), 3), 0.25 + 0.5 * (faces[:, 0] > faces[:, 1]).float().mean((1, 2)).round()

    class Weighing(Noting):
        def restore(self, faces, w=0.8, adain=True, **known):
            self.told.append((w, len(faces)))
            return [cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA) for face in faces]

    assert [fidelity_from(c) for c in (0, 0.37, 0.512, 1)] == [0, 0.35, 0.5, 1]
    network, people = Weighing(), People((of_colour('ann', BLUE),), 0.9)
    crops = [tinted(aligned_face(64), colour) for colour in (RED, GREEN, RED)]
    for who in (None, people):
        network.told = []
        guide = IdentityConditioner(ByColour(), who, own, 64)
        done = ImageRestorer(network, guide=guide, choose_w=True).restore_aligned(crops)
        assert [face.w for face in done] == [face.likeness.w for face in done] == [0.75, 0.25, 0.75]
        assert network.told == [(0.25, 1), (0.75, 2)]
    mixed = ImageRestorer(network, guide=guide, choose_w=True).restore_aligned([*crops, tinted(crops[0], BLUE)])
    assert mixed[3].person is people.persons[0] and [face.w for face in mixed[:3]] == [0.75, 0.25, 0.75]
    assert [w for w, _ in network.told[2:]] == list(CANDIDATES)
    for face, crop in zip(mixed, crops, strict=False):
        assert np.array_equal(face.restored, crop)


# Clips


def frames_with(*rows: dict[int, np.ndarray]) -> list[dict[int, FoundFace]]:
    return [
        {track: FoundFace(tinted(aligned_face(64), colour), None, 'restored') for track, colour in row.items()}
        for row in rows
    ]


def test_a_track_keeps_who_it_is_and_is_measured_now_and_then():
    ann, bob = of_colour('ann', RED), of_colour('bob', GREEN)
    tracks = TrackIdentities(IdentityConditioner(ByColour(), People((ann, bob), 0.3)))
    first = tracks.recognize(frames_with({0: RED}, {0: RED, 1: BLUE}))
    assert [{t: f.person for t, f in row.items()} for row in first] == [{0: ann}, {0: ann, 1: None}]
    later = tracks.recognize(frames_with(*[{0: GREEN, 1: BLUE, 2: RED}] * 9))
    assert {(t, f.person) for row in later for t, f in row.items()} == {(0, ann), (1, None), (2, None)}
    measured = sum(row[0].embedding is not None for row in [*first, *later])
    assert measured == -(-11 // MEASURE_EVERY)


def test_a_track_that_begins_blurred_is_asked_again_until_somebody_is_found():
    bob = of_colour('bob', GREEN)
    tracks = TrackIdentities(IdentityConditioner(ByColour(), People((bob,), 0.3)))
    (first,) = tracks.recognize(frames_with({0: BLUE}))
    assert first[0].person is None
    likeness = compare(first[0].embedding, first[0].embedding, None, 0.5)
    tracks.note({0: first[0].with_restoration(first[0].crop, 0.5, likeness=likeness)})
    later = [row[0].person for row in tracks.recognize(frames_with(*[{0: GREEN}] * 9, *[{0: BLUE}] * 9))]
    assert later == [None] * (MEASURE_EVERY - 1) + [bob] * (19 - MEASURE_EVERY)
    assert tracks.report() == []  # what was measured against the input says nothing of bob


def test_a_clip_is_restored_with_one_identity_a_track_and_reports_it(files, tmp_path):
    from fractions import Fraction

    from basicsr.video.video_restorer import VideoRestorer
    from experiments.benchmarks.make_video import Scene, write_clip

    picture = cv2.resize(tinted(blurred_portrait(), RED), (128, 128), interpolation=cv2.INTER_AREA)
    write_clip(tmp_path / 'clip.mp4', Scene(picture, 12, Fraction(25)))
    noting, ann = Noting(), of_colour('ann', RED)
    guide = IdentityConditioner(ByColour(), People((ann,), 0.3, only=True), tells_people=True, search_steps=5)
    face = Face(FACE.box / 4, 1.0, (ASTRONAUT_LANDMARKS + 0.5) / 4 - 0.5)
    images = ImageRestorer(noting, Found(face), upscale=1, guide=guide)
    result = VideoRestorer(images).restore_file(tmp_path / 'clip.mp4', tmp_path / 'out.mp4')
    assert all((told['mask'] == 1).all() and 'search' not in told for told in noting.told) and result.restored == 1
    (found,) = result.identity
    assert (found.face, found.person) == (0, 'ann') and found.before > 0.9 and found.after > 0.9
    auto = VideoRestorer(ImageRestorer(noting, Found(face), guide=guide, choose_w=True))
    with pytest.raises(ValueError, match='-w auto is for pictures'):
        auto.restore_file(tmp_path / 'clip.mp4', tmp_path / 'auto.mp4')


def test_a_clip_whose_references_can_have_no_effect_is_not_restored_as_asked(tmp_path):
    """Codes are not searched in clips: a network that is not told of people restores them blind, and says so."""
    from fractions import Fraction

    from experiments.benchmarks.make_video import Scene, write_clip

    picture = cv2.resize(tinted(blurred_portrait(), RED), (128, 128), interpolation=cv2.INTER_AREA)
    write_clip(tmp_path / 'clip.mp4', Scene(picture, 3, Fraction(25)))
    face = Face(FACE.box / 4, 1.0, (ASTRONAUT_LANDMARKS + 0.5) / 4 - 0.5)
    guide = IdentityConditioner(ByColour(), People((of_colour('ann', RED),), 0.3), search_steps=5)
    for told, status in ((False, 'restored_blind'), (True, 'restored')):
        images = ImageRestorer(Noting(), Found(face), upscale=1, guide=replace(guide, tells_people=told))
        (record,) = Runner(images, tmp_path / f'out_{told}').run([Job(tmp_path / 'clip.mp4', 'clip')])
        assert record.status == status
        assert ('codes are not searched in clips' in record.message) is not told
    assert guide.without_effect() == '' and 'the search is off' in replace(guide, search_steps=0).without_effect()
    assert replace(guide, people=None).without_effect(clip=True) == ''


# Which recognizer, and which network


def test_the_recognizer_asked_for_comes_first_then_the_networks_then_what_is_there(tmp_path, monkeypatch):
    weights, named = tmp_path / 'weights', save_tiny(tmp_path / 'named.pth')
    monkeypatch.setattr('basicsr.recognition.registry.packaged', lambda name: tmp_path / 'nothing')  # none is shipped
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'nothing'))
    assert choose_recognizer(None, None, weights) is None
    assert choose_recognizer(None, 'arcface_r18', weights) is None
    save_tiny(weights / 'arcface' / 'arcface_r18.pth')
    save_tiny(weights / 'arcface' / 'arcface_r50.pth', seed=4)
    face = [aligned_face(64)]

    def same(found, path):
        return torch.equal(embed_faces(found, face), embed_faces(choose_recognizer(str(path), None, weights), face))

    assert same(choose_recognizer(str(named), 'arcface_r50', weights), named)
    assert same(choose_recognizer(None, 'arcface_r50', weights), weights / 'arcface' / 'arcface_r50.pth')
    assert same(choose_recognizer(None, 'elsewhere/arcface_r50.pth', weights), weights / 'arcface' / 'arcface_r50.pth')
    assert same(choose_recognizer(None, None, weights), weights / 'arcface' / 'arcface_r18.pth')
    assert same(choose_recognizer(None, 'arcface_r100', weights), weights / 'arcface' / 'arcface_r18.pth')
    with pytest.raises(
        CheckpointError,
        match=r'^--ref needs a face recognizer, and none is in [^;:]* '
        r'\(the network was trained with arcface_r100\): get one',
    ):
        choose_recognizer(None, 'arcface_r100', tmp_path / 'empty', needed_by='--ref')
    with pytest.raises(CheckpointError, match=r'-w auto needs a face recognizer, and none.*id-codeformer download'):
        choose_recognizer(None, None, tmp_path / 'empty', needed_by='-w auto')


@pytest.mark.parametrize('name', ['id.safetensors', 'id.pth'])
def test_checkpoints_tell_the_network_and_its_recognizer(tmp_path, name):
    restorer = FaceRestorer(save_id_model(tmp_path / name, recognizer='arcface_r18'), device='cpu')
    assert restorer.takes_identity and restorer.told_by == ('arcface_r18', DIM)
    assert next(restorer.network.parameters()).dtype == torch.float32
    identity = F.normalize(torch.randn(1, DIM), dim=1)
    plain, told = restorer.restore(aligned_face(64))[0], restorer.restore(aligned_face(64), identity=identity)[0]
    assert not np.array_equal(plain, told)


def test_the_embedded_model_is_told_of_people_and_moves_towards_them():
    restorer = FaceRestorer('small', device='cpu')
    assert restorer.takes_identity and restorer.told_by == (SHIPPED, 128)
    embedder, clean = FaceEmbedder(SHIPPED), aligned_face(128)
    who = embed_faces(embedder, [clean[:, ::-1]])
    damaged = cv2.resize(cv2.resize(clean, (20, 20), interpolation=cv2.INTER_AREA), (128, 128))
    blind, told = (restorer.restore([damaged], **known)[0] for known in ({}, {'identity': who}))
    nobody = restorer.restore([damaged], identity=who, mask=torch.zeros(1, 1))[0]
    before, after = (embed_faces(embedder, [face]) @ who.T for face in (blind, told))
    assert np.array_equal(blind, nobody) and after > before + 0.01
    assert np.abs(told.astype(float) - blind).mean() < 6  # the same face, not another one


# The command line


def test_a_reference_reaches_network_summary_and_screen(run, files, tmp_path):
    recognizer = ('--recognizer', files / 'recognizer.pth')
    code, _, _, _ = run(*recognizer)
    assert code == 0
    blind = written_face(tmp_path)
    code, summary, screen, _ = run('--ref', files / 'me.png', *recognizer)
    assert code == 0 and not np.array_equal(written_face(tmp_path), blind)
    (entry,) = summary['files'][0]['identity']
    fields = ('face', 'compared_with', 'person', 'before', 'after', 'w', 'warning', 'nearest', 'nearest_cosine')
    assert entry.keys() == set(fields)
    assert (entry['compared_with'], entry['person'], entry['w']) == ('reference', 'reference', 0.8)
    assert summary['who']['network_is_told'] is True
    assert summary['who']['references'] == {'reference': [str(files / 'me.png')]}
    (line,) = [line for line in screen.splitlines() if line.startswith('face.png') and 'reference' in line]
    assert line.split()[:6] == ['face.png', '0', 'reference', f'{entry["before"]:.2f}', f'{entry["after"]:.2f}', '0.8']
    told = written_face(tmp_path)
    run('--ref', files / 'me.png', '--id_scale', 0, *recognizer)
    assert not np.array_equal(written_face(tmp_path), told)


def test_a_stranger_is_restored_blind_and_nobody_matched_is_said_with_the_best_cosine(run, files, tmp_path):
    recognizer = ('--recognizer', files / 'recognizer.pth')
    run(*recognizer)
    blind = written_face(tmp_path)
    code, summary, screen, errors = run('--ref', files / 'me.png', '--id_threshold', 0.9999, *recognizer)
    assert code == 0 and np.array_equal(written_face(tmp_path), blind)
    (entry,) = summary['files'][0]['identity']
    assert (entry['person'], entry['nearest']) == (None, 'reference')
    cosine = f'{entry["nearest_cosine"]:.2f}'
    assert f'no face was taken for anybody of --ref; the best cosine is {cosine}, of face 0 of face.png' in errors
    insist = entry['warning'].split('insist with ')[1].split(';')[0].split()
    assert cosine in screen and insist[0] == '--id_threshold'
    _, summary, _, errors = run('--ref', files / 'me.png', *insist, *recognizer)
    assert summary['files'][0]['identity'][0]['person'] == 'reference' and 'no face was taken' not in errors


def test_a_network_that_takes_no_identity_says_so_and_restores_as_before(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr.recognition.registry.packaged', lambda name: tmp_path / 'nothing')  # none is shipped
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'nothing'))
    code, summary, screen, _ = run(model='plain.pth')
    assert code == 0 and summary['who'] == {'recognizer': None} and summary['files'][0]['identity'] == []
    assert 'Identity is not measured' in screen and 'id-codeformer download arcface' in screen
    before = written_face(tmp_path)
    flags = ('--ref', files / 'me.png', '--recognizer', files / 'recognizer.pth', '--id_search', 0)
    code, summary, screen, _ = run(*flags, model='plain.pth')
    assert code == 1 and np.array_equal(written_face(tmp_path), before)
    assert summary['files'][0]['status'] == 'restored_blind' and '--ref had no effect: the network' in screen
    assert 'cannot be told who people are' in screen and summary['who']['network_is_told'] is False
    assert summary['files'][0]['identity'][0]['compared_with'] == 'reference'


def test_a_network_is_not_told_what_another_recognizer_says_than_that_of_its_training(run, files, tmp_path):
    save_id_model(files / 'of_r18.pth', recognizer='arcface_r18')
    flags = ('--ref', files / 'me.png', '--id_search', 0, '--recognizer', files / 'recognizer.pth')
    run(*flags[2:], model='of_r18.pth')
    blind = written_face(tmp_path)
    code, summary, _, errors = run(*flags, model='of_r18.pth')
    assert code == 1 and np.array_equal(written_face(tmp_path), blind)
    assert summary['files'][0]['status'] == 'restored_blind'
    assert 'trained with arcface_r18, and is not told what' in errors and summary['who']['network_is_told'] is False
    assert 'arcface_r18' in summary['who']['notes'][0]
    code, _, _, errors = run('--identity', 'input', *flags[4:], model='of_r18.pth')
    assert code == 2 and 'trained with arcface_r18, and is not told what' in errors
    named = save_tiny(files / 'named' / 'arcface_r18.pth')
    run(*flags[:4], '--recognizer', named, model='of_r18.pth')
    assert not np.array_equal(written_face(tmp_path), blind)


def test_without_reference_likeness_to_the_input_is_reported(run, files):
    _, summary, screen, _ = run('--recognizer', files / 'recognizer.pth')
    (entry,) = summary['files'][0]['identity']
    assert (entry['compared_with'], entry['before'], entry['person']) == ('input', None, None)
    assert f'{entry["after"]:.2f}' in screen


@pytest.mark.parametrize('told', [False, True])
def test_auto_is_reported_for_each_face(run, files, tmp_path, told):
    recognizer, calibration = files / 'recognizer.pth', tmp_path / 'calibration.json'
    Calibration('tiny', sha256_of(recognizer), {'norm': 0.0}, -2.0, 'nothing').save(calibration)  # confidence 0.12
    flags = ('--ref', files / 'me.png', '--id_search', 0) if told else ('--calibration', calibration)
    code, summary, screen, _ = run('-w', 'auto', '--recognizer', recognizer, *flags)
    (entry,) = summary['files'][0]['identity']
    assert code == 0 and summary['w'] == 'auto' and (entry['w'] in CANDIDATES if told else entry['w'] == 0.1)
    assert f' {entry["w"]:g}' in next(
        line for line in screen.splitlines() if entry['compared_with'] in line and 'face.png' in line
    )


def test_whole_pictures_have_likeness_too(run, files, tmp_path):
    imwrite(files / 'photo' / 'photo.png', blurred_portrait())
    flags = ('--ref', files / 'me.png', '--recognizer', files / 'recognizer.pth')
    code, summary, _, errors = run(*flags, aligned=False, source='photo')
    assert code == 0 and [entry['face'] for entry in summary['files'][0]['identity']] == [0]
    imwrite(files / 'odd' / 'a.png', portrait())
    imwrite(files / 'odd' / 'b.png', BAD['blurred.png'][0]())
    code, summary, _, errors = run('--ref', files / 'odd', *flags[2:], aligned=False, source='photo')
    assert code == 0 and 'warning: ' in errors and 'b.png: the face is too blurred' in errors
    assert summary['who']['notes'] and list(summary['who']['references']) == ['odd']


def test_the_input_itself_is_told_when_that_is_asked_for(run, files, tmp_path, monkeypatch):
    recognizer, calibration = files / 'recognizer.pth', tmp_path / 'calibration.json'
    Calibration('tiny', sha256_of(recognizer), {'norm': 0.0}, 3.0, 'nothing').save(calibration)
    assert run('--recognizer', recognizer)[0] == 0
    blind = written_face(tmp_path)
    code, summary, _, _ = run('--recognizer', recognizer, '--identity', 'input', '--calibration', calibration)
    assert code == 0 and not np.array_equal(written_face(tmp_path), blind)
    assert summary['files'][0]['identity'][0]['compared_with'] == 'input'
    told = written_face(tmp_path)
    monkeypatch.setattr('basicsr.inference.build_conditioner.CALIBRATIONS', tmp_path)
    assert run('--recognizer', recognizer, '--identity', 'input')[0] == 0
    assert np.array_equal(written_face(tmp_path), told)
    Calibration('tiny', '0' * 64, {'norm': 0.0}, 3.0, 'nothing').save(calibration)
    code, _, _, errors = run('--recognizer', recognizer, '--identity', 'input', '--calibration', calibration)
    assert code == 2 and 'other weights' in errors


@pytest.mark.parametrize(
    ('flags', 'model', 'message'),
    [
        (('--ref', 'nowhere.png'), 'id.pth', 'nowhere.png: no such file or folder'),
        (('--ref', 'in'), 'id.pth', 'no reference can be used: '),
        (('--ref', 'me.png', '--recognizer', 'none.pth'), 'id.pth', 'none.pth: no such file or recognizer'),
        (('--ref', 'me.png', '--recognizer', ''), 'id.pth', '--ref needs a face recognizer, and none is in'),
        (('-w', 'auto', '--recognizer', ''), 'plain.pth', '-w auto needs a face recognizer, and none is in'),
        (('-w', 'auto'), 'plain.pth', '-w auto without --ref: nothing in'),
        (('--identity', 'input'), 'plain.pth', 'cannot be told who the faces are'),
        (('--identity', 'input'), 'id.pth', 'id-codeformer recognizer calibrate'),
    ],
)
def test_what_cannot_start_is_said_with_exit_code_2(run, files, flags, model, message, monkeypatch):
    monkeypatch.chdir(files)
    flags = list(flags) if '--recognizer' in flags else [*flags, '--recognizer', 'recognizer.pth']
    if flags[-1] == '':
        flags = flags[:-2]
        monkeypatch.setattr('basicsr.recognition.registry.packaged', lambda name: files / 'nothing')  # none is shipped
        monkeypatch.setenv('CODEFORMER_WEIGHTS', str(files / 'nothing'))
    code, _, _, errors = run(*flags, model=model)
    assert code == 2 and message in errors


@pytest.mark.parametrize(
    ('flag', 'value'), [('--id_scale', '2.5'), ('--id_search', '-1'), ('--id_threshold', '-2'), ('-w', 'automatic')]
)
def test_flags_out_of_range_are_usage_errors(run, flag, value):
    with pytest.raises(SystemExit):
        run(flag, value)


# Real faces


@pytest.fixture
def people(shared):
    """References and other photographs of three people, and the recognizer."""
    folder = shared / 'data' / 'celebref512'
    return {sub.name: sorted(sub.iterdir()) for sub in sorted(folder.iterdir())[:3]}


@pytest.mark.shared
def test_degraded_faces_find_their_person_among_others(shared, people, tmp_path):
    embedder = FaceEmbedder(shared / 'weights' / 'arcface_mbf512.onnx')
    for name in list(people)[:2]:
        for path in people[name][:3]:
            imwrite(tmp_path / name / path.name, imread(path))
    found = ReferenceReader(build_detector(), embedder)([tmp_path])
    assert [len(person.files) for person in found.persons] == [3, 3] and found.notes == []
    crops = []
    for photos in people.values():
        small = cv2.resize(imread(photos[5]), (56, 56), interpolation=cv2.INTER_AREA)
        crops.append(cv2.resize(small, (128, 128), interpolation=cv2.INTER_CUBIC))
    matched = found.match(embed_faces(embedder, crops))
    assert [person and person.name for person in matched] == [*list(people)[:2], None]


@pytest.mark.shared
def test_a_stranger_among_the_references_is_named(shared, people, tmp_path):
    first, second, _ = people.values()
    for path in [*first[:3], second[0]]:
        imwrite(tmp_path / f'{path.parent.name}_{path.name}', imread(path))
    reader = ReferenceReader(build_detector(), FaceEmbedder(shared / 'weights' / 'arcface_mbf512.onnx'))
    found = reader([tmp_path])
    assert len(found.persons[0].files) == 3
    (note,) = found.notes
    assert f'{second[0].parent.name}_{second[0].name}: not the person' in note


@pytest.mark.shared
def test_the_default_threshold_lets_hardly_any_stranger_in(shared):
    embedder = FaceEmbedder(shared / 'weights' / 'arcface_mbf512.onnx')
    folders = sorted((shared / 'data' / 'celebref512').iterdir())
    means, faces = [], []
    for folder in folders:
        vectors = embed_faces(embedder, [imread(path) for path in sorted(folder.iterdir())[:4]])
        means.append(F.normalize(vectors[:3].mean(0), dim=0))
        faces.append(vectors[3])
    cosines = torch.stack(faces) @ torch.stack(means).T
    own = cosines.diagonal()
    assert own.min() > THRESHOLD > (cosines - 2 * torch.diag(own)).max()


@pytest.mark.shared
def test_lone_faces_use_their_references_and_strangers_do_not(shared):
    """Six people, two photographs of each under mild and severe damage, held against the references of all."""
    embedder = FaceEmbedder(shared / 'weights' / 'arcface_mbf512.onnx')
    folders = [sub for name in ('celebref512', 'multi_id') for sub in sorted((shared / 'data' / name).iterdir())[::2]]
    photos = {folder.name: sorted(folder.iterdir()) for folder in folders}
    own = InputIdentity(embedder, CALIBRATIONS / 'arcface_mbf512.json')
    persons = [person(name, *embed_faces(embedder, [imread(f) for f in files[:3]])) for name, files in photos.items()]
    found = {}
    for severity, ranges in SEVERITIES.items():
        shown = [(name, file) for name, files in photos.items() for file in files[5:7]]
        crops = [make_pair(file, f'{name}/{file.stem}', ranges.scaled(128), 128, 0)['lq'] for name, file in shown]
        vectors = embed_faces(embedder, crops)
        rows = []
        for one in persons:
            guide = IdentityConditioner(embedder, People((one,), only=True), own, 128)
            rows.append([guide.recognize([c], v[None], alone=True)[0] for c, v in zip(crops, vectors, strict=True)])
        found[severity] = np.array([[0 if f is None else 1 + f.assumed for f in row] for row in rows])
    for severity, share in {'mild': 0.7, 'severe': 0.4}.items():
        is_own = np.eye(len(persons), dtype=bool).repeat(2, axis=1)
        others = found[severity][~is_own]
        assert (found[severity][is_own] > 0).mean() >= share
        assert not (others == 1).any() and (others == 2).mean() <= 0.1


def test_a_calibration_that_nothing_uses_is_refused(tmp_path):
    restorer = FaceRestorer(save_tiny_model(tmp_path / 'tiny.pth'), 'cpu')
    with pytest.raises(ValueError, match='--calibration: only --ref, -w auto'):
        build_conditioner(IdentityConfig(calibration='none.json'), restorer, None, tmp_path)
