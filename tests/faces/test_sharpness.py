"""A sharp face is left alone; the same face under damage that leaves its detail is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from small_faces import ASTRONAUT_LANDMARKS, GROUP_PHOTO, portrait

from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import crop_side, ellipse_distance
from basicsr.faces.overlay_net import PLACE, STRIDE, OverlayNet
from basicsr.faces.sharpness import (
    LARGEST_VIEW,
    OVERLAY_WEIGHTS,
    clean_probability,
    is_sharper_than,
    overlay_network,
    to_network,
    views_of,
)
from basicsr.utils.image import imread

SIZES = (64, 128, 200)
FACE = slice(60, 185), slice(170, 275)  # rows and columns of the portrait


def on_face(rng: np.random.Generator, number: int) -> np.ndarray:
    """Return chance points (x, y) of the portrait's face."""
    return np.stack([rng.integers(s.start, s.stop, number) for s in FACE[::-1]], 1)


def dust(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for centre in on_face(rng, 60):
        cv2.circle(image, centre.tolist(), int(rng.integers(1, 3)), (235, 230, 220), -1, cv2.LINE_AA)
    return image


def scratches(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for x in rng.integers(FACE[1].start, FACE[1].stop, 7).tolist():
        cv2.line(image, (x, 0), (x + int(rng.integers(-20, 20)), 511), (225, 225, 225), 1, cv2.LINE_AA)
    return image


def letters(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.putText(image, 'HOLIDAY 95', (165, 130), cv2.FONT_HERSHEY_DUPLEX, 0.8, (255, 230, 40), 2, cv2.LINE_AA)


def sticker(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cv2.rectangle(image, (205, 120), (245, 150), (40, 160, 230), -1)
    cv2.rectangle(image, (205, 120), (245, 150), (255, 255, 255), 2)
    return image


def colour_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    space = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float64)
    space[..., 1:] += rng.normal(0, 16, (*image.shape[:2], 2))
    return cv2.cvtColor(np.clip(space, 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)


DAMAGES = {
    'dust': dust,
    'scratches': scratches,
    'letters': letters,
    'sticker': sticker,
    'colour noise': colour_noise,
}


@pytest.mark.parametrize('size', SIZES)
def test_a_sharp_portrait_is_left_alone_also_after_a_mild_save(size):
    assert is_sharper_than(portrait(), size, ASTRONAUT_LANDMARKS)
    saved = cv2.imdecode(cv2.imencode('.jpg', portrait(), [cv2.IMWRITE_JPEG_QUALITY, 92])[1], cv2.IMREAD_COLOR)
    assert is_sharper_than(saved, size, ASTRONAUT_LANDMARKS)
    assert is_sharper_than(portrait()[:, ::-1], size, mirrored(ASTRONAUT_LANDMARKS))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', list(DAMAGES))
def test_a_sharp_portrait_under_damage_is_restored(name, size):
    """Of six chance layers one may pass."""
    damaged = [DAMAGES[name](portrait().copy(), np.random.default_rng(seed)) for seed in range(6)]
    assert sum(is_sharper_than(image, size, ASTRONAUT_LANDMARKS) for image in damaged) <= 1


@pytest.mark.parametrize('name', ['dust', 'scratches', 'letters', 'sticker'])
def test_damage_beside_the_face_does_not_count(name):
    damaged = DAMAGES[name](portrait().copy(), np.random.default_rng(1))
    outside = ellipse_distance(ASTRONAUT_LANDMARKS, 512, 512)[..., None] > 1.1
    damaged = np.roll(damaged, 60, axis=1)
    assert is_sharper_than(np.where(outside, damaged, portrait()), 128, ASTRONAUT_LANDMARKS)


def mirrored(points: np.ndarray) -> np.ndarray:
    return (np.array([511, 0]) + points * [-1, 1])[[1, 0, 2, 4, 3]]


def test_views_hold_the_face_in_its_own_pixels_and_reduced():
    views = views_of(portrait(), ASTRONAUT_LANDMARKS, 64)
    side = crop_side(ASTRONAUT_LANDMARKS)
    assert views.log_ratio == pytest.approx(np.log(side / 96))
    for view, scale in ((views.native, 1), (views.reduced, 96 / side)):
        assert view.shape[0] % STRIDE == view.shape[1] % STRIDE == 0 and view.dtype == np.uint8
        assert view[..., 3].sum() == pytest.approx(np.pi * 0.24 * 0.3 * (side * scale) ** 2, rel=0.03)
    rows, columns = (
        np.flatnonzero((ellipse_distance(ASTRONAUT_LANDMARKS, 512, 512) <= 1).any(axis)) for axis in (1, 0)
    )
    inside = np.stack(np.nonzero(views.native[..., 3]), 1)
    original = portrait()[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    assert np.array_equal(views.native[top:bottom, left:right, :3], original)
    assert views_of(portrait(), ASTRONAUT_LANDMARKS, 128).reduced is None


def test_a_large_face_is_reduced_and_one_at_the_edge_filled_up():
    large = cv2.resize(portrait(), None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    views = views_of(large, (ASTRONAUT_LANDMARKS + 0.5) * 5 - 0.5, 512)
    assert views.native[..., 3].sum() == pytest.approx(np.pi * 0.24 * 0.3 * LARGEST_VIEW**2, rel=0.02)
    cut = portrait()[85:, 215:]
    views = views_of(cut, ASTRONAUT_LANDMARKS - (215, 85), 64)
    expected = (ellipse_distance(ASTRONAUT_LANDMARKS - (215, 85), *cut.shape[1::-1]) <= 1).sum()
    assert views.native[..., 3].sum() == expected
    assert views_of(portrait()[:40], ASTRONAUT_LANDMARKS, 64) is None


def test_what_is_nearer_to_a_neighbour_is_not_looked_at():
    own, other = ASTRONAUT_LANDMARKS, ASTRONAUT_LANDMARKS + np.array([40, 0])
    mine, theirs = (ellipse_distance(points, 512, 512) for points in (own, other))
    alone, beside = (views_of(portrait(), own, 128, others).native[..., 3] for others in ((), (other,)))
    assert alone.sum() == (mine <= 1).sum() and beside.sum() == ((mine <= 1) & (theirs > mine)).sum() < alone.sum()


def test_the_decision_does_not_depend_on_threads():
    detector = build_detector()
    image = imread(GROUP_PHOTO)
    looks = [views_of(image, face.landmarks, 64) for face in detector.detect(image)]
    looks += [views_of(portrait(), ASTRONAUT_LANDMARKS, size) for size in SIZES]
    large = cv2.resize(portrait(), None, fx=3, fy=3)
    looks.append(views_of(large, (ASTRONAUT_LANDMARKS + 0.5) * 3 - 0.5, 256))
    before, found = (torch.get_num_threads(), cv2.getNumThreads()), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            found.append([clean_probability(overlay_network(), [each])[0] for each in looks])
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    assert len(found[0]) >= 9 and found[0] == found[1] == found[2]


def test_batch_normalization_is_taken_into_the_convolutions():
    torch.manual_seed(0)
    network = OverlayNet(norm=True)
    image, mask = torch.rand(4, 3, 64, 64), torch.ones(4, 1, 64, 64)
    for _ in range(20):
        network.pool(image, mask)
    expected = network.eval().pool(image, mask)
    for found, each in zip(network.fuse().pool(image, mask), expected, strict=True):
        assert torch.allclose(found, each, atol=1e-5)
    assert set(network.state_dict()) == set(OverlayNet().state_dict())


def test_the_network_sees_where_something_lies():
    image, (x, y) = portrait(), (225, 130)
    cv2.rectangle(image, (x - 14, y - 14), (x + 14, y + 14), (40, 160, 230), -1)
    view = views_of(image, ASTRONAUT_LANDMARKS, 200).native
    row, column = (int(v) for v in np.argwhere((view[..., :3] == (40, 160, 230)).all(2)).mean(0))
    with torch.inference_mode():
        _, places = overlay_network().pool(*to_network(view[None]))
    inside = cv2.resize(view[..., 3], places.shape[:1:-1], interpolation=cv2.INTER_AREA) > 0
    found = np.where(inside, places[0, 0], -np.inf)
    there = np.zeros_like(inside)
    there[row // PLACE - 1 : row // PLACE + 2, column // PLACE - 1 : column // PLACE + 2] = True
    assert found[there].max() > 1 and np.median(found[inside & ~there]) < -1


def test_the_packaged_weights_are_small():
    assert OVERLAY_WEIGHTS.stat().st_size <= 500_000
