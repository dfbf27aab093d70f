"""Restoring aligned faces and whole pictures: batches, sizes, colours, errors, what is left alone, upsampling."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small import CODEFORMER
from small_faces import (
    ASTRONAUT_LANDMARKS,
    GROUP_PHOTO,
    TRIALS,
    Found,
    Unchanged,
    aligned_face,
    blurred_portrait,
    portrait,
    psnr,
    save_tiny_model,
)
from spandrel.architectures.ESRGAN import ESRGAN

from basicsr.archs import build_network
from basicsr.archs.vqgan_arch import Upsample
from basicsr.faces.detection import Face, build_detector
from basicsr.faces.geometry import align_face, apply_affine, crop_side, ellipse_distance, invert_affine
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.canvas import write_number
from basicsr.inference.face_pipeline import is_grey
from basicsr.inference.face_restorer import choose_device, find_model
from basicsr.inference.found_face import FoundFace, RestoredFace
from basicsr.inference.upsampler import Upsampler, find_upsampler
from basicsr.utils.checkpoint import CheckpointError, load_state_dict_file, save_atomic
from basicsr.utils.image import imread
from basicsr.utils.templates import ffhq_template


@pytest.fixture(scope='module')
def tiny_path(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.pth')


@pytest.fixture(scope='module')
def restorer(tiny_path):
    return FaceRestorer(tiny_path, device='cpu', batch_size=3)


class Echo(torch.nn.Module):
    """A network that returns its input, and remembers with what it was called."""

    img_size = 64

    def forward(self, x, **kwargs):
        self.kwargs = kwargs
        return x, None, None


class Broken(torch.nn.Module):
    def forward(self, x, **kwargs):
        raise RuntimeError('out of something')


def with_network(path, network):
    restorer = FaceRestorer(path, device='cpu')
    restorer.network = network
    return restorer


def test_a_batch_equals_one_by_one(restorer):
    rng = np.random.default_rng(0)
    faces = [cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), (0, 0), 2) for _ in range(5)]
    together = restorer.restore(faces, w=0.7)
    assert len(together) == 5
    for face, result in zip(faces, together, strict=True):
        assert np.abs(restorer.restore(face, w=0.7)[0].astype(int) - result).max() <= 1


@pytest.mark.parametrize('size', [16, 64, 300])
def test_any_size_goes_in_and_the_networks_comes_out(restorer, size):
    (result,) = restorer.restore(aligned_face(size))
    assert result.shape == (64, 64, 3) and result.dtype == np.uint8


def test_a_network_of_twice_the_side_gives_faces_of_that_side(tmp_path):
    network = build_network({**CODEFORMER, 'out_scale': 2})
    save_atomic({'params': network.state_dict()}, tmp_path / 'double.pth')
    restorer = FaceRestorer(tmp_path / 'double.pth', color_fix=False)
    assert restorer.size == 128
    assert restorer.restore(aligned_face(96))[0].shape == (128, 128, 3)


def test_no_faces_give_no_results(restorer):
    assert restorer.restore([]) == []


def test_colours_keep_their_order_and_range(tiny_path):
    """Through a network that changes nothing a red picture stays red, to the last bit."""
    face = np.zeros((64, 64, 3), np.uint8)
    face[:, :, 0], face[:32, :, 2] = 255, 7
    (result,) = with_network(tiny_path, Echo()).restore(face)
    assert np.array_equal(result, face)


def test_w_and_adain_reach_the_network(tiny_path):
    network = Echo()
    with_network(tiny_path, network).restore(aligned_face(64), w=0.25, adain=False)
    assert network.kwargs == {'w': 0.25, 'adain': False}


def test_w_changes_the_result(restorer):
    face = aligned_face(64)
    assert not np.array_equal(restorer.restore(face, w=0)[0], restorer.restore(face, w=1)[0])


@pytest.mark.parametrize('w', [-0.01, 1.01, float('nan')])
def test_w_out_of_range_is_an_error(restorer, w):
    with pytest.raises(ValueError, match='w = '):
        restorer.restore(aligned_face(64), w=w)
    with pytest.raises(ValueError, match='w = '):
        ImageRestorer(restorer, w=w)


def test_what_is_no_picture_is_an_error(restorer):
    with pytest.raises(ValueError, match='RGB uint8'):
        restorer.restore([np.zeros((64, 64, 3), np.float32)])
    with pytest.raises(ValueError, match='RGB uint8'):
        restorer.restore([np.zeros((64, 64), np.uint8)])


def test_bf16_reaches_the_network_and_its_result_is_a_picture(tiny_path):
    class Convolution(Echo):
        def forward(self, x, **kwargs):
            self.dtype = x.dtype
            return torch.nn.functional.conv2d(x, torch.eye(3, dtype=x.dtype)[:, :, None, None]), None, None

    for precision, dtype in (('bf16', torch.bfloat16), ('fp32', torch.float32)):
        restorer = FaceRestorer(tiny_path, device='cpu', precision=precision)
        assert {parameter.dtype for parameter in restorer.network.parameters()} == {dtype}
        restorer.network = Convolution()
        (result,) = restorer.restore(aligned_face(64))
        assert restorer.network.dtype == dtype
        assert np.abs(result.astype(int) - aligned_face(64)).max() <= 1


def test_weights_summed_once_give_the_same_bits_and_are_in_no_state_dict(tiny_path):
    restorer = FaceRestorer(tiny_path, device='cpu')
    layers = [layer for layer in restorer.network.modules() if isinstance(layer, Upsample)]
    assert layers and not any('kept' in key for key in restorer.network.state_dict())
    (once,) = restorer.restore(aligned_face(64))
    for layer in layers:
        assert torch.equal(layer.kept, layer.summed_weight())
        layer.kept = None
    (anew,) = restorer.restore(aligned_face(64))
    assert np.array_equal(once, anew)


def test_a_failing_network_is_an_error_and_never_a_result(tiny_path):
    broken = with_network(tiny_path, Broken())
    with pytest.raises(RuntimeError, match='out of something'):
        broken.restore(aligned_face(64))
    face = Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS)
    with pytest.raises(RuntimeError, match='out of something'):
        ImageRestorer(broken, Found(face), force=True).restore(portrait())


def test_values_that_are_not_finite_are_an_error(tiny_path):
    class Infinite(Echo):
        def forward(self, x, **kwargs):
            return x / 0, None, None

    with pytest.raises(RuntimeError, match='not finite'):
        with_network(tiny_path, Infinite()).restore(aligned_face(64))


def test_auto_takes_the_official_weights_when_they_are_there_and_says_which(tmp_path):
    state = load_state_dict_file(save_tiny_model(tmp_path / 'tiny.pth'))
    (tmp_path / 'small').mkdir()
    save_file(state, tmp_path / 'small' / 'codeformer_128.safetensors')
    restorer = FaceRestorer(weights_dir=tmp_path, device='cpu')
    assert restorer.description.startswith('embedded small model') and '64x64' in restorer.description
    with pytest.raises(FileNotFoundError, match='id-codeformer download CodeFormer'):
        FaceRestorer('official', weights_dir=tmp_path, device='cpu')
    save_tiny_model(tmp_path / 'CodeFormer' / 'codeformer.pth')
    assert FaceRestorer(weights_dir=tmp_path, device='cpu').description.startswith('official')
    assert find_model('small', tmp_path)[1].startswith('embedded')


def test_models_that_are_missing_or_cannot_restore_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr.inference.face_restorer.packaged', lambda name: tmp_path / 'package' / name)
    with pytest.raises(FileNotFoundError, match='no such model file'):
        FaceRestorer(tmp_path / 'none.pth', device='cpu')
    with pytest.raises(FileNotFoundError, match='comes with the package'):
        FaceRestorer('small', weights_dir=tmp_path, device='cpu')
    sizes = {'img_size': 64, 'nf': 32, 'ch_mult': [1, 2, 2], 'res_blocks': 1, 'attn_resolutions': [16]}
    autoencoder = build_network({'type': 'VQAutoEncoder', **sizes, 'codebook_size': 64, 'emb_dim': 64})
    torch.save(autoencoder.state_dict(), tmp_path / 'vqgan.pth')
    with pytest.raises(CheckpointError, match='cannot restore faces'):
        FaceRestorer(tmp_path / 'vqgan.pth', device='cpu')


def test_settings_that_cannot_work_are_errors(tiny_path, restorer):
    with pytest.raises(ValueError, match='unknown precision'):
        FaceRestorer(tiny_path, precision='int8')
    with pytest.raises(ValueError, match='fp16 needs a CUDA device'):
        FaceRestorer(tiny_path, device='cpu', precision='fp16')
    with pytest.raises(ValueError, match='batch size 0'):
        FaceRestorer(tiny_path, batch_size=0)
    with pytest.raises(ValueError, match='unknown device'):
        choose_device('quantum')
    with pytest.raises(ValueError, match="device 'meta': there is no such"):
        choose_device('meta')
    with pytest.raises(ValueError, match='upscale'):
        ImageRestorer(restorer, upscale=0)
    with pytest.raises(ValueError, match='need a face detector'):
        ImageRestorer(restorer).restore(portrait())


def test_six_faces_are_restored_and_nothing_moves():
    """With a stand-in that changes nothing, the group looks as before, twice as large."""
    image = cv2.GaussianBlur(imread(GROUP_PHOTO), (0, 0), 1.5)
    result = ImageRestorer(Unchanged(256), build_detector(), upscale=2).restore(image)
    assert [face.status for face in result.faces] == ['restored'] * 6
    assert result.status == 'restored'
    assert result.image.shape == (image.shape[0] * 2, image.shape[1] * 2, 3)
    assert psnr(result.image, cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)) > 45
    assert all(face.crop.shape == face.restored.shape == (256, 256, 3) for face in result.faces)


def test_only_the_face_nearest_to_the_middle():
    image = imread(GROUP_PHOTO)
    result = ImageRestorer(Unchanged(), build_detector(), only_center_face=True, force=True).restore(image)
    (face,) = result.faces
    assert np.abs(face.face.landmarks.mean(0) - (782, 422)).max() < 6


def test_a_picture_without_a_face_is_only_enlarged():
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 3)
    result = ImageRestorer(Unchanged(), build_detector(), upscale=1).restore(image)
    assert result.status == 'no_face' and result.faces == []
    assert np.array_equal(result.image, image)


def test_a_sharp_face_is_left_alone_unless_forced():
    image, detector = portrait(), Found(Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS))
    left = ImageRestorer(Unchanged(64), detector, upscale=1).restore(image)
    assert left.status == 'already_sharp' and not isinstance(left.faces[0], RestoredFace)
    assert '64 pixels' in left.faces[0].reason and '--force' in left.faces[0].reason
    assert np.array_equal(left.image, image)
    forced = ImageRestorer(Unchanged(64), detector, upscale=1, force=True).restore(image)
    assert forced.status == 'restored' and not np.array_equal(forced.image, image)
    blurred = ImageRestorer(Unchanged(64), detector, upscale=1).restore(blurred_portrait())
    assert blurred.status == 'restored'


def test_a_face_of_large_pixels_is_restored_though_their_edges_are_sharp():
    small = cv2.resize(portrait(), (128, 128), interpolation=cv2.INTER_AREA)
    image = cv2.resize(small, (512, 512), interpolation=cv2.INTER_NEAREST)
    detector = Found(Face(np.array([180.0, 60, 270, 170]), 1.0, ASTRONAUT_LANDMARKS))
    assert ImageRestorer(Unchanged(128), detector, upscale=1).restore(portrait()).status == 'already_sharp'
    assert ImageRestorer(Unchanged(128), detector, upscale=1).restore(image).status == 'restored'
    assert ImageRestorer(Unchanged(128)).restore_aligned([image, portrait()])[0].status == 'restored'


def test_each_pixel_belongs_to_the_face_it_is_nearest_to():
    white, image = np.full((64, 64, 3), 255, np.uint8), blurred_portrait()
    canvas = ImageRestorer(Unchanged(64), upscale=1).canvas

    def result(restored, side, left, top):
        scale = 64 / side
        face = FoundFace(white, None, '', np.array([[scale, 0, -left * scale], [0, scale, -top * scale]]))
        return face if restored is None else face.with_restoration(restored, 0.5)

    large = result(white, 256, 20, 20)  # 20 to 276
    for other in (result(None, 64, 180, 130), result(None, 300, 150, 0)):  # smaller, larger
        alone, both = canvas.finish(image, [large]), canvas.finish(image, [large, other])
        middle = apply_affine(ffhq_template(64), invert_affine(other.matrix)).mean(0)
        own, theirs = (
            ellipse_distance(apply_affine(ffhq_template(64), invert_affine(face.matrix)), 512, 512)
            for face in (large, other)
        )
        assert theirs[tuple(middle.astype(int)[::-1])] < 1
        spared, away = theirs < own, own < 0.3 * theirs
        assert np.array_equal(both[spared], image[spared]) and (alone[spared] != image[spared]).any()
        assert np.abs(both[away].astype(int) - alone[away]).max() <= 1 and (alone[away] != image[away]).any()


def test_between_two_restored_faces_nothing_stays_as_it_was():
    white, image = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 128, 3), np.uint8)
    places = [np.array([[1.0, 0, -x], [0, 1.0, 0]]) for x in (20, 44)]
    faces = [FoundFace(white, None, '', place).with_restoration(white, 0.5) for place in places]
    result = ImageRestorer(Unchanged(64), upscale=1).canvas.finish(image, faces)
    assert result[30:50, 35:95].min() > 200


def test_a_sharp_neighbour_is_spared_and_a_blurred_one_restored():
    """A restored face is set to white, so that each of its pixels shows."""

    class White(Unchanged):
        def restore(self, faces, w=0.8, adain=True):
            return [np.full((self.size, self.size, 3), 255, np.uint8) for _ in faces]

    for name in ('neighbour_spoils_sharp.png', 'neighbour_left_blurred.png'):
        image = imread(TRIALS / name)
        result = ImageRestorer(White(128), build_detector(), upscale=1).restore(image)
        assert [face.status for face in result.faces] == ['already_sharp', 'restored']  # the larger one first
        sharp, blurred = (ellipse_distance(f.face.landmarks, *image.shape[1::-1]) for f in result.faces)
        assert np.array_equal(result.image[sharp < blurred], image[sharp < blurred])
        assert result.image[(blurred < 0.7) & (blurred < 0.6 * sharp)].min() > 250


@pytest.mark.parametrize(
    'name',
    ['sharp_jpeg_q15.jpg', 'sharp_dither.gif', 'sharp_watermark.jpg', 'sharp_combing.jpg', 'sharp_lowbitrate.avi'],
)
@pytest.mark.parametrize('size', [64, 128, 256])
def test_damaged_trials_are_restored(name, size):
    result = ImageRestorer(Unchanged(size), build_detector(), upscale=1).restore(trial(name))
    assert [face.status for face in result.faces] == ['restored']


def trial(name):
    if name.endswith('.avi'):
        with av.open(TRIALS / name) as clip:
            return next(clip.decode(video=0)).to_ndarray(format='rgb24')
    return np.array(Image.open(TRIALS / name).convert('RGB'))


def test_a_face_whose_landmarks_are_uncertain_is_left_alone_even_if_forced():
    face = Face(np.array([180.0, 60, 270, 170]), 0.8, ASTRONAUT_LANDMARKS, consistent=False)
    for images in (ImageRestorer(Unchanged(64), Found(face), upscale=1, force=force) for force in (False, True)):
        result = images.restore(blurred_portrait())
        assert result.status == result.faces[0].status == 'uncertain'
        assert 'two looks' in result.faces[0].reason
        assert np.array_equal(result.image, blurred_portrait())


@pytest.mark.parametrize('share, status', [(0.8, 'already_sharp'), (0.5, 'restored')])
def test_a_sharp_face_of_a_photo_is_left_alone_until_it_is_much_smaller_than_the_network(share, status):
    """The same aligned face by itself is restored: its size says nothing of the photo it is from."""
    own_size = crop_side(ASTRONAUT_LANDMARKS)
    size = round(own_size / share)
    detector = Found(Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS))
    assert ImageRestorer(Unchanged(size), detector, upscale=1).restore(portrait()).status == status
    crop = align_face(portrait(), ASTRONAUT_LANDMARKS, round(own_size))[0]
    assert ImageRestorer(Unchanged(size)).restore_aligned([crop])[0].status == 'restored'


def test_a_picture_that_is_an_aligned_face_is_restored_up_to_its_edges():
    """No soft frame of the old picture around the new one."""

    class White(Unchanged):
        def restore(self, faces, w=0.8, adain=True):
            return [np.full((self.size, self.size, 3), 255, np.uint8) for _ in faces]

    result = ImageRestorer(White(64), build_detector(), upscale=2).restore(aligned_face(128))
    assert result.faces[0].whole
    assert result.image.shape == (256, 256, 3) and (result.image == 255).all()


def test_aligned_faces_in_a_batch():
    sharp = align_face(portrait(), ASTRONAUT_LANDMARKS, 168)[0]
    results = ImageRestorer(Unchanged(64)).restore_aligned([aligned_face(168), sharp])
    assert [result.status for result in results] == ['restored', 'already_sharp']
    assert results[0].restored.shape == (64, 64, 3) and not isinstance(results[1], RestoredFace)


def test_a_grey_picture_stays_grey():
    class Tinted(Unchanged):
        def restore(self, faces, w=0.8, adain=True):
            return [cv2.subtract(face, np.array([0, 0, 60, 0], np.float64)) for face in super().restore(faces)]

    detector = Found(Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS))
    grey = cv2.cvtColor(cv2.cvtColor(blurred_portrait(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    for image, colourless in ((grey, True), (blurred_portrait(), False)):
        result = ImageRestorer(Tinted(), detector, upscale=1).restore(image).image.astype(int)
        assert bool(np.ptp(result, axis=2).max() == 0) is colourless


@pytest.mark.parametrize('light', [1.0, 0.3, 0.1])
def test_little_light_does_not_make_a_face_grey(light: float) -> None:
    grey = cv2.cvtColor(cv2.cvtColor(blurred_portrait(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    for image, colourless in ((grey, True), (blurred_portrait(), False)):
        dark = cv2.convertScaleAbs(image, alpha=light)
        blocks = cv2.imdecode(cv2.imencode('.jpg', dark, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
        assert is_grey(dark) is is_grey(blocks) is colourless


def test_boxes_are_drawn_around_the_crops():
    detector = Found(Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS))
    plain = ImageRestorer(Unchanged(), detector, upscale=1).restore(blurred_portrait()).image
    boxed = ImageRestorer(Unchanged(), detector, upscale=1, draw_box=True).restore(blurred_portrait()).image
    changed = (plain != boxed).any(axis=2)
    assert 0 < changed.mean() < 0.05
    assert (boxed[changed][:, 1] > 150).mean() > 0.5


def test_numbers_stand_upright_in_the_boxes_of_turned_faces():
    box, plates = np.array([[50, 50], [150, 50], [150, 150], [50, 150]], float), []
    for degrees in (0, 45, 90, 180, 260):
        outline = apply_affine(box, cv2.getRotationMatrix2D((100, 100), degrees, 1))
        canvas = np.full((200, 200, 3), 128, np.uint8)
        write_number(canvas, 7, outline, (0, 255, 0), 1)
        inside = cv2.fillConvexPoly(np.zeros((200, 200), np.uint8), np.rint(outline).astype(np.int32), 1) > 0
        rows, columns = np.nonzero((canvas != 128).any(axis=2))
        assert inside[rows, columns].mean() > 0.9
        plates.append(canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    assert all(np.array_equal(plate, plates[0]) for plate in plates) and plates[0][..., 1].max() > 200


@pytest.fixture(scope='module')
def upsampler_path(tmp_path_factory):
    """A small ESRGAN with random weights that enlarges four times."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('upsampler') / 'esrgan.pth'
    torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), path)
    return path


def test_tiles_do_not_show(upsampler_path):
    image = cv2.resize(portrait(), (150, 110), interpolation=cv2.INTER_AREA)
    whole = Upsampler(upsampler_path, tile=0).upscale(image, 4)
    tiled = Upsampler(upsampler_path, tile=40).upscale(image, 4)
    assert whole.shape == (440, 600, 3)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_memory_is_bounded_by_the_tile(upsampler_path):
    upsampler, sides = Upsampler(upsampler_path, tile=40), []
    run = upsampler._run
    upsampler._run = lambda part: sides.append(part.shape[:2]) or run(part)
    upsampler.upscale(np.zeros((110, 150, 3), np.uint8), 4)
    assert len(sides) == 12 and np.max(sides) <= 40 + 2 * 32


def test_backgrounds_and_faces_go_through_the_upsampler_to_the_size_asked_for(upsampler_path):
    upsampler = Upsampler(upsampler_path)
    image = cv2.resize(blurred_portrait(), (128, 128), interpolation=cv2.INTER_AREA)
    detector = Found(Face(np.zeros(4), 1.0, (ASTRONAUT_LANDMARKS + 0.5) / 4 - 0.5))
    plain = ImageRestorer(Unchanged(64), Found(), upscale=1.5, bg_upsampler=upsampler).restore(image).image
    assert plain.shape == (192, 192, 3)
    faces = ImageRestorer(Unchanged(64), detector, upscale=1.5, face_upsampler=upsampler).restore(image).image
    bicubic = cv2.resize(image, (192, 192), interpolation=cv2.INTER_CUBIC)
    differs = (faces != bicubic).any(axis=2)
    assert differs[20:60, 65:105].mean() > 0.9 and not differs[100:].any()


def test_upsamplers_that_are_missing_or_foreign_are_errors(tmp_path, tiny_path):
    with pytest.raises(FileNotFoundError, match='id-codeformer download realesrgan'):
        find_upsampler('realesrgan', tmp_path)
    with pytest.raises(FileNotFoundError, match='no such upsampler'):
        find_upsampler(str(tmp_path / 'x.pth'), tmp_path)
    torch.save({'odd': torch.zeros(2)}, tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match='no network that spandrel knows'):
        Upsampler(tmp_path / 'odd.pth')


@pytest.mark.shared
def test_the_real_upsampler_enlarges_a_picture(shared):
    upsampler = Upsampler(shared / 'weights' / 'RealESRGAN_x4plus_fp16.pth')
    image = cv2.resize(portrait(), (32, 32), interpolation=cv2.INTER_AREA)
    result = upsampler.upscale(image, 2)
    assert result.shape == (64, 64, 3)
    assert psnr(cv2.resize(result, (32, 32), interpolation=cv2.INTER_AREA), image) > 22


@pytest.mark.parametrize('content', [b'<!DOCTYPE html>', b'', bytes(1000)])
def test_damaged_official_weights_are_named_and_the_embedded_model_is_used(content, tmp_path, caplog):
    official = tmp_path / 'CodeFormer' / 'codeformer.pth'
    official.parent.mkdir()
    official.write_bytes(content)
    restorer = FaceRestorer('auto', device='cpu', weights_dir=tmp_path)
    assert restorer.description.startswith('embedded small model') and restorer.color_fix
    assert 'codeformer.pth: ' in caplog.text and 'The embedded small model is used instead' in caplog.text
    with pytest.raises(CheckpointError, match=r'codeformer\.pth'):
        FaceRestorer('official', device='cpu', weights_dir=tmp_path)
