"""Face recognizers: told by their files, exact crops, ONNX graphs that learn nothing new, and frozen."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_recognizer import TINY, randomise, save_onnx, save_tiny, smooth_faces
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.faces.geometry import apply_affine, invert_affine, similarity_transform
from basicsr.recognition.embedder import GREY, ORIGIN_UNKNOWN, FaceEmbedder, load_recognizer
from basicsr.recognition.face_crop import FaceCrop
from basicsr.recognition.files import find_recognizer
from basicsr.recognition.iresnet import IResNet
from basicsr.recognition.mobilefacenet import MobileFaceNet
from basicsr.recognition.onnx_network import onnx_network, read_onnx
from basicsr.recognition.registry import RECOGNIZERS
from basicsr.recognition.resnet_arcface import ResNetArcFace
from basicsr.utils.checkpoint import CheckpointError, save_atomic
from basicsr.utils.image import imwrite, to_image
from basicsr.utils.templates import ARCFACE_112, FFHQ_512, ffhq_template
from basicsr.utils.weights import read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / 'tiny.pth')


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('HOME', str(tmp_path))
    return tmp_path


# ---- networks and their files


@pytest.mark.parametrize(
    ('blocks', 'millions'),
    [((2, 2, 2, 2), 24.02), ((3, 4, 6, 3), 34.14), ((3, 4, 14, 3), 43.59), ((3, 13, 30, 3), 65.16)],
)
def test_iresnets_have_the_published_number_of_parameters(blocks: tuple[int, ...], millions: float) -> None:
    with torch.device('meta'):
        network = IResNet(blocks)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_iresnet_keys_are_those_of_arcface_torch() -> None:
    with torch.device('meta'):
        state = IResNet((1, 2, 1, 1)).state_dict()
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    block = [*(f'bn1.{key}' for key in norm), 'conv1.weight', *(f'bn2.{key}' for key in norm), 'prelu.weight']
    block += ['conv2.weight', *(f'bn3.{key}' for key in norm)]
    first = [*block, 'downsample.0.weight', *(f'downsample.1.{key}' for key in norm)]
    layers = [f'layer{i}.0.{key}' for i in (1, 2, 3, 4) for key in first] + [f'layer2.1.{key}' for key in block]
    ends = ['conv1.weight', 'prelu.weight', 'fc.weight', 'fc.bias']
    ends += [f'{name}.{key}' for name in ('bn1', 'bn2', 'features') for key in norm]
    assert set(state) == {*layers, *ends}
    assert state['fc.weight'].shape == (512, 512 * 7 * 7)
    assert state['layer1.0.downsample.0.weight'].shape == (64, 64, 1, 1)


def test_an_iresnet_computes_the_published_blocks(tiny: Path) -> None:
    """The same sum written out from the state dict: pre-norm, two convolutions of which the second shrinks, no ReLU."""
    state = torch.load(tiny, weights_only=True)
    network = load_recognizer(tiny)[1].eval()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f'{name}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias'))
        return F.batch_norm(x, mean, var, weight, bias)

    x = y = torch.randn(2, 3, 112, 112)
    y = F.prelu(norm(F.conv2d(y, state['conv1.weight'], padding=1), 'bn1'), state['prelu.weight'])
    for i in range(1, 5):
        block = f'layer{i}.0'
        short = norm(F.conv2d(y, state[f'{block}.downsample.0.weight'], stride=2), f'{block}.downsample.1')
        y = norm(F.conv2d(norm(y, f'{block}.bn1'), state[f'{block}.conv1.weight'], padding=1), f'{block}.bn2')
        y = F.conv2d(F.prelu(y, state[f'{block}.prelu.weight']), state[f'{block}.conv2.weight'], stride=2, padding=1)
        y = norm(y, f'{block}.bn3') + short
    y = norm(F.linear(norm(y, 'bn2').flatten(1), state['fc.weight'], state['fc.bias']), 'features')
    torch.testing.assert_close(network(x), y, rtol=1e-4, atol=1e-5)


def test_mobilefacenet_computes_what_facexlib_s_does() -> None:
    """Facexlib's has the same layers in the same order under other names."""
    from facexlib.recognition.arcface_arch import MobileFaceNet as SquareMobileFaceNet

    published, ours = randomise(SquareMobileFaceNet(96)), MobileFaceNet(96, (112, 112)).eval()
    names, values = ours.state_dict(), published.state_dict().values()
    assert len(names) == len(values)
    ours.load_state_dict({name: value.reshape(names[name].shape) for name, value in zip(names, values, strict=True)})
    crops = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(F.normalize(ours(crops)), published(crops), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('use_se', [False, True])
def test_the_grey_resnet_computes_what_gfpgan_s_does(use_se: bool) -> None:
    from spandrel.architectures.GFPGAN.__arch.arcface_arch import ResNetArcFace as Published

    published = randomise(Published('IRBlock', [2, 1, 1, 1], use_se=use_se))
    ours = ResNetArcFace(**ResNetArcFace.sizes(published.state_dict()))
    assert (ours.layer1[0].se is not None) == use_se
    ours.load_state_dict(published.state_dict())
    x = torch.randn(2, 1, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), published(x), rtol=1e-4, atol=1e-5)


def test_facexlib_s_networks_are_told_by_their_keys(tmp_path: Path) -> None:
    from facexlib.recognition.arcface_arch import Backbone
    from facexlib.recognition.arcface_arch import MobileFaceNet as SquareMobileFaceNet

    with torch.device('meta'):
        network = Backbone(50, 0.6, 'ir_se')
    save_file(
        {key: torch.zeros(value.shape).half() for key, value in network.state_dict().items()},
        tmp_path / 'se.safetensors',
    )
    entry, loaded = load_recognizer(tmp_path / 'se.safetensors')
    other = replace(RECOGNIZERS['arcface_ir_se50'], **ORIGIN_UNKNOWN)  # not the released file, by its sum
    assert (entry, type(loaded)) == (other, Backbone)
    assert all(p.dtype == torch.float32 and p.device.type == 'cpu' for p in loaded.parameters())

    small = randomise(SquareMobileFaceNet(96))
    save_atomic({'state_dict': small.state_dict()}, tmp_path / 'square.pth')
    embedder = FaceEmbedder(tmp_path / 'square.pth')
    assert embedder.name == 'mobilefacenet_112 (square.pth)'
    faces = smooth_faces()
    with torch.no_grad():
        torch.testing.assert_close(embedder(faces), small(embedder.preprocess(faces)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(112, 96), (112, 112)])
def test_both_forms_of_mobilefacenet_are_told_by_their_last_kernel(tmp_path: Path, size: tuple[int, int]) -> None:
    network = randomise(MobileFaceNet(128, size))
    save_atomic({'iter': 3, 'net_state_dict': network.state_dict()}, tmp_path / '068.ckpt')
    embedder = FaceEmbedder(tmp_path / '068.ckpt')
    expected = 'mobilefacenet_casia128' if size == (112, 96) else 'mobilefacenet_112x112'
    assert embedder.name == f'{expected} (068.ckpt)'
    assert embedder.recognizer.training_set == 'not known'  # another file than the one that is known
    assert embedder.recognizer.url is None
    assert embedder.preprocess(smooth_faces()).shape == (2, 3, *size)
    assert embedder(smooth_faces()).shape == (2, embedder.dim)


def test_iresnets_of_every_size_are_read_off_their_keys(tmp_path: Path, tiny: Path) -> None:
    entry, network = load_recognizer(tiny)
    assert (entry.name, entry.embedding, entry.training_set) == ('arcface_r10', 16, 'not known')
    assert IResNet.sizes(network.state_dict()) == TINY
    deep = randomise(IResNet((3, 4, 14, 3), (2, 2, 2, 2), 8))
    save_atomic({f'module.{key}': value for key, value in deep.state_dict().items()}, tmp_path / 'glint.pth')
    assert FaceEmbedder(tmp_path / 'glint.pth').name == 'arcface_r50 (glint.pth)'


def test_another_network_than_expected_is_an_error_that_names_both(tiny: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r'tiny\.pth: found arcface_r10, .*16 numbers; expected arcface_resnet18_grey'
    ):
        FaceEmbedder(tiny, arch='arcface_resnet18_grey')
    with pytest.raises(CheckpointError, match=r"unknown recognizer 'arcface_r5'.*arcface_r50"):
        FaceEmbedder(tiny, arch='arcface_r5')


def test_foreign_incomplete_and_damaged_files_are_errors(tmp_path: Path, tiny: Path) -> None:
    state = torch.load(tiny, weights_only=True)
    cases = {
        'foreign.pth': (
            {'encoder.weight': torch.ones(2)},
            r'no face recognizer.*encoder\.weight.*expected such as layer1',
        ),
        'short.pth': ({k: v for k, v in state.items() if k != 'layer3.0.bn2.weight'}, r'1 missing \(layer3\.0\.bn2'),
        'layerless.pth': ({k: v for k, v in state.items() if 'layer3' not in k}, r'layerless\.pth.*layer3\.0\.conv1'),
        'wide.pth': ({**state, 'fc.weight': torch.ones(16, 99)}, r'fc\.weight \(16, 99\) instead of \(16, 392\)'),
    }
    for name, (content, message) in cases.items():
        save_atomic(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            FaceEmbedder(tmp_path / name)
    (tmp_path / 'cut.pth').write_bytes(tiny.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r'cut\.pth.*damaged'):
        FaceEmbedder(tmp_path / 'cut.pth')


# ---- finding files


@pytest.mark.parametrize('name', RECOGNIZERS)
def test_a_missing_recognizer_says_where_to_get_it(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(home / 'weights'))
    entry = RECOGNIZERS[name]
    with pytest.raises(CheckpointError, match='no such file') as error:
        FaceEmbedder(name)
    assert str(home) in str(error.value)
    assert (entry.url or 'give its path') in str(error.value)


def test_unknown_names_and_paths_are_errors(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"bufalo_l: no such file.*did you mean 'buffalo_l'"):
        FaceEmbedder('bufalo_l')
    with pytest.raises(CheckpointError, match=r'/else/w600k_r50\.onnx: no such file; fetch http.*buffalo_l\.zip'):
        FaceEmbedder('/else/w600k_r50.onnx')
    with pytest.raises(CheckpointError, match="give 'weights'"):
        FaceEmbedder()


def test_a_name_of_the_table_finds_its_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(home))
    (home / 'arcface').mkdir()
    path = save_onnx(home / 'arcface/arcface_mbf512.onnx')
    assert find_recognizer('arcface_mbf512') == path


def test_the_recognizer_of_an_insightface_pack_is_told_by_its_graph(home: Path) -> None:
    folder = home / '.insightface/models/buffalo_l'
    folder.mkdir(parents=True)
    save_onnx(folder / '1k3d68.onnx', size=(192, 192), embedding=3309, shape=(0, -1))
    save_onnx(folder / 'genderage.onnx', size=(96, 96), embedding=3)
    save_onnx(folder / 'age.onnx', size=(112, 112), embedding=3)
    with pytest.raises(CheckpointError, match=r'0 recognition models.*genderage'):
        FaceEmbedder('buffalo_l')
    expected = save_onnx(folder / 'w600k_r50.onnx', batch='None', embedding=512)
    for weights in ('buffalo_l', folder):
        embedder = FaceEmbedder(weights)
        assert find_recognizer(weights) == expected
        assert (embedder.name, embedder.dim, embedder.recognizer.training_set) == ('w600k_r50', 512, 'WebFace600K')
    FaceEmbedder('buffalo_l', arch='buffalo_l')
    with pytest.raises(CheckpointError, match=r'found w600k_r50.*expected antelopev2'):
        FaceEmbedder('buffalo_l', arch='antelopev2')
    save_onnx(folder / 'second.onnx')
    with pytest.raises(CheckpointError, match=r'2 recognition models'):
        FaceEmbedder('buffalo_l')


def test_the_table_and_the_manifest_agree() -> None:
    manifest = {entry.file: entry for entry in read_manifest(ROOT / 'weights/manifest.yml')['arcface']}
    fetched = [entry for entry in RECOGNIZERS.values() if 'id-codeformer download' in entry.where_to_get_it]
    assert {entry.file for entry in fetched} == set(manifest)
    for entry in fetched:
        assert (manifest[entry.file].url, manifest[entry.file].sha256) == (entry.url, entry.sha256)
        assert entry.licence in manifest[entry.file].licence
        assert entry.name in manifest[entry.file].used_by


# ---- ONNX


def onnx_answer(path: Path, crops: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return torch.cat([torch.from_numpy(session.run(None, {name: crop[None].numpy()})[0]) for crop in crops])


@pytest.mark.parametrize('batch', [1, 'N'])
@pytest.mark.parametrize('shape', [(1, -1), (1, 294), (-1, 294), (0, -1), 'dynamic'])
def test_onnx_graphs_become_the_same_function_for_any_batch(tmp_path: Path, batch: int | str, shape: str) -> None:
    path = save_onnx(tmp_path / 'r.onnx', batch, shape=shape)
    network, embedding = onnx_network(read_onnx(path), path)
    crops = torch.randn(3, 3, 112, 112)
    assert embedding == 64
    with torch.no_grad():
        torch.testing.assert_close(network(crops), onnx_answer(path, crops), rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_onnx_graphs_are_differentiable(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / 'r.onnx')
    network = onnx_network(read_onnx(path), path)[0].double()
    crops = torch.randn(2, 3, 112, 112, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, crops, fast_mode=True)


def test_a_graph_that_normalises_gets_plain_pixels(tmp_path: Path) -> None:
    plain = FaceEmbedder(save_onnx(tmp_path / 'plain.onnx'))
    inside = FaceEmbedder(save_onnx(tmp_path / 'inside.onnx', normalises=True))
    faces = smooth_faces()
    assert (inside.recognizer.mean, inside.recognizer.std) == (0, 1)
    assert inside.preprocess(faces).max() > 100
    torch.testing.assert_close(inside(faces), plain(faces), rtol=1e-4, atol=1e-5)


def test_onnx_files_that_are_no_recognizer_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'no face recognizer. Found inputs \[\(1, 3, 96, 96\)\].*expected'):
        FaceEmbedder(save_onnx(tmp_path / 'age.onnx', size=(96, 96)))
    path = save_onnx(tmp_path / 'cut.onnx')
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r'cut\.onnx: damaged or not an ONNX model'):
        FaceEmbedder(path)
    model = onnx.load(save_onnx(tmp_path / 'odd.onnx'))
    model.graph.node[-1].op_type = 'Hardmax'
    del model.graph.node[-1].input[1:], model.graph.node[-1].attribute[:]
    onnx.save(model, tmp_path / 'odd.onnx')
    with pytest.raises(CheckpointError, match=r'odd\.onnx: onnx2torch cannot convert.*Hardmax'):
        FaceEmbedder(tmp_path / 'odd.onnx')


# ---- the crop


def ramps(height: int, width: int) -> Tensor:
    """A picture of two channels that hold each pixel's own x and y, plus 1 so that nothing inside is 0."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack([x, y])[None].double() + 1


def places(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where the pixels of a crop lie in the picture, (h,w,2), for a matrix from picture to crop."""
    y, x = np.mgrid[: size[0], : size[1]]
    return apply_affine(np.stack([x.ravel(), y.ravel()], 1), invert_affine(matrix)).reshape(*size, 2)


@pytest.mark.parametrize('entry', ['arcface_r50', 'mobilefacenet_casia128', 'arcface_resnet18_grey'])
@pytest.mark.parametrize('side', [64, 128, 192, 512])
def test_the_crop_is_exact_to_a_thousandth_of_a_pixel(entry: str, side: int) -> None:
    """Interpolating and averaging leave a ramp what it is, so that a crop of it tells its own place."""
    recognizer = RECOGNIZERS[entry]
    crop = FaceCrop(recognizer.template, recognizer.size)(ramps(side, side))[0].permute(1, 2, 0).numpy() - 1
    expected = places(similarity_transform(ffhq_template(side), recognizer.template), recognizer.size)
    inside = ((expected > 1.5) & (expected < side - 2.5)).all(axis=2)
    assert inside.mean() > 0.85
    assert np.abs(crop - expected)[inside].max() < 1e-3


def test_landmarks_override_the_template_for_each_picture() -> None:
    rng = np.random.default_rng(1)
    landmarks = np.stack([ffhq_template(200) * 0.7 + [30, 50], ffhq_template(200) + rng.normal(0, 6, (5, 2))])
    crops = FaceCrop(ARCFACE_112, (112, 112))(ramps(220, 260).expand(2, -1, -1, -1), torch.from_numpy(landmarks))
    for crop, points in zip(crops.permute(0, 2, 3, 1).numpy(), landmarks, strict=True):
        expected = places(similarity_transform(points, ARCFACE_112), (112, 112))
        inside = ((expected > 1.5) & (expected < [257.5, 217.5])).all(axis=2)
        assert inside.mean() > 0.9
        assert np.abs(crop - 1 - expected)[inside].max() < 1e-3


def test_the_narrow_crop_is_the_square_one_without_its_outer_columns() -> None:
    faces = torch.rand(1, 3, 256, 256)
    narrow, square = RECOGNIZERS['mobilefacenet_casia128'], RECOGNIZERS['arcface_r50']
    wide = FaceCrop(square.template, square.size)(faces)
    torch.testing.assert_close(FaceCrop(narrow.template, narrow.size)(faces), wide[..., 8:104], rtol=1e-4, atol=1e-4)


def test_what_does_not_shrink_is_not_filtered() -> None:
    """At scale 1 and a shift by whole pixels the crop is the picture's own pixels, and black outside."""
    picture = torch.rand(1, 3, 160, 150)
    landmarks = torch.from_numpy(ARCFACE_112 + np.array([45, 20]))[None]
    crop = FaceCrop(ARCFACE_112, (112, 112))(picture, landmarks)
    expected = F.pad(picture[..., 20:132, 45:150], (0, 7))
    torch.testing.assert_close(crop, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize('with_landmarks', [False, True])
def test_what_shrinks_is_averaged_first(with_landmarks: bool) -> None:
    """Stripes of one pixel are beyond what 112 pixels can show of 512: they must vanish, not turn into moire."""
    stripes = (torch.arange(512) % 2).float().expand(1, 1, 512, 512)
    landmarks = torch.from_numpy(FFHQ_512)[None] if with_landmarks else None
    for picture in (stripes, stripes.transpose(2, 3)):
        assert (FaceCrop(ARCFACE_112, (112, 112))(picture, landmarks) - 0.5).abs().max() < 0.12
    noise = torch.rand(1, 1, 512, 512)
    crop = FaceCrop(ARCFACE_112, (112, 112))(noise, landmarks)
    # The mean of the 12.7 pixels that each pixel of the crop covers.
    assert crop.std() == pytest.approx(float(noise.std()) / 12.7**0.5, rel=0.2)


@pytest.mark.parametrize('scale', [1.13, 0.93, 0.71, 0.47, 0.29])
def test_the_crop_blurs_by_the_area_that_a_pixel_covers(scale: float) -> None:
    """The variance of the blur, in pixels of the picture, read off the squares of a ramp.

    A mean of samples at x + d has E[(x + d)^2] = x^2 + Var(d). The samples spread over a part sqrt(1 - s^2) of a pixel
    of the crop, whose side is 1/s; bilinear interpolation adds t(1 - t) between two pixels, 1/6 in the mean.
    """
    side = round(112 / scale) + 20
    x = torch.arange(side, dtype=torch.float64).expand(1, 1, side, side)
    landmarks = torch.from_numpy(ARCFACE_112 / scale + 8.3)[None]
    crop = FaceCrop(ARCFACE_112, (112, 112))
    mean, square = crop(torch.cat([x, x.square()], dim=1), landmarks)[0, :, 4:-4, 4:-4]
    samples = crop._samples(side, True)
    spread = max(0, 1 - scale**2) / scale**2 * (1 - 1 / samples**2) / 12
    assert (square - mean.square()).mean().item() == pytest.approx(spread + 1 / 6, abs=0.006)


def test_pictures_that_cannot_be_cropped_are_errors(tiny: Path) -> None:
    embedder = FaceEmbedder(tiny)
    with pytest.raises(ValueError, match=r'63x80 pixels is too small.*64'):
        embedder(torch.zeros(1, 3, 80, 63))
    with pytest.raises(ValueError, match=r'100x80.*landmarks'):
        embedder(torch.zeros(1, 3, 80, 100))
    with pytest.raises(ValueError, match=r'landmarks of shape \(5, 2\)'):
        embedder(torch.zeros(1, 3, 80, 80), torch.zeros(5, 2))
    for bad in (torch.ones(2, 5, 2), torch.full((2, 5, 2), torch.nan)):
        with pytest.raises(ValueError, match='coincide or are no numbers'):
            embedder(torch.zeros(2, 3, 80, 80), bad)


# ---- the embedder


def test_embeddings_are_unit_vectors_of_the_normalised_crop(tiny: Path) -> None:
    embedder = build_network({'type': 'FaceEmbedder', 'weights': str(tiny)})
    faces = smooth_faces(3)
    crops = FaceCrop(ARCFACE_112, (112, 112))((faces + 1) / 2) * 2 - 1
    expected = F.normalize(load_recognizer(tiny)[1].eval()(crops))
    torch.testing.assert_close(embedder(faces), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedder(faces).norm(dim=1), torch.ones(3))
    assert embedder(faces).shape == (3, embedder.dim)
    assert (embedder(faces)[0] - embedder(faces)[1]).norm() > 1e-3


def test_flipping_takes_the_mean_of_a_crop_and_its_mirror_image(tiny: Path) -> None:
    plain, both = FaceEmbedder(tiny), FaceEmbedder(tiny, flip=True)
    crops = plain.preprocess(smooth_faces())
    expected = F.normalize(F.normalize(plain.network(crops)) + F.normalize(plain.network(crops.flip(3))))
    torch.testing.assert_close(both(smooth_faces()), expected)
    assert (both(smooth_faces()) - plain(smooth_faces())).norm() > 1e-3


@pytest.mark.parametrize('channels', ['rgb', 'bgr', 'grey'])
def test_channels_and_scale_are_the_table_s(tiny: Path, channels: str) -> None:
    embedder = FaceEmbedder(tiny)
    embedder.recognizer = replace(embedder.recognizer, channels=channels, mean=100.0, std=50.0)
    colour = torch.tensor([51.0, 102.0, 204.0])
    crop = embedder.preprocess((colour / 127.5 - 1).view(1, 3, 1, 1).expand(1, 3, 128, 128))[0, :, 50, 50]
    order = {'rgb': colour, 'bgr': colour.flip(0), 'grey': (colour * torch.tensor(GREY)).sum()[None]}[channels]
    torch.testing.assert_close(crop, (order - 100) / 50, rtol=1e-4, atol=1e-4)


def test_the_recognizer_is_frozen_and_in_nobody_s_state_dict(tiny: Path) -> None:
    owner = nn.ModuleDict({'embedder': FaceEmbedder(tiny), 'own': nn.Linear(1, 1)})
    owner.train()
    embedder = owner['embedder']
    assert set(owner.state_dict()) == {'own.weight', 'own.bias'}
    assert [name for name, _ in owner.named_parameters()] == ['own.weight', 'own.bias']
    assert not any(module.training for module in (embedder, *embedder.network.modules()))
    assert not any(parameter.requires_grad for parameter in embedder.network.parameters())
    before = embedder(smooth_faces())
    assert not before.requires_grad
    torch.testing.assert_close(copy.deepcopy(owner)['embedder'](smooth_faces()), before)
    assert owner.double()['embedder'](smooth_faces()).dtype == torch.float64


@pytest.mark.parametrize('landmarks', [None, torch.from_numpy(ffhq_template(96)).float().expand(2, -1, -1)])
def test_an_onnx_embedder_compiles_whole(tmp_path: Path, landmarks: Tensor | None) -> None:
    embedder = FaceEmbedder(save_onnx(tmp_path / 't.onnx', shape='dynamic'))
    compiled = torch.compile(embedder, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(smooth_faces(), landmarks), embedder(smooth_faces(), landmarks))


def test_importing_networks_imports_no_recognition_package() -> None:
    heavy = ('insightface', 'onnx', 'onnx2torch', 'facexlib')
    code = f'import sys, basicsr.losses; print([name for name in {heavy} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == '[]'


# ---- real recognizers on real faces


@pytest.fixture
def few(shared: Path, tmp_path: Path) -> Path:
    """Five pictures of each person."""
    for person in (shared / 'data/celebref512').iterdir():
        shutil.copytree(person, tmp_path / person.name, ignore=lambda _, names: sorted(names)[5:])
    return tmp_path


@pytest.mark.shared
@pytest.mark.parametrize('file', ['arcface_mbf512.onnx', 'mobilefacenet_casia128.pth'])
def test_photographs_of_one_person_are_near_and_of_two_are_not(
    shared: Path, file: str, capsys: pytest.CaptureFixture
) -> None:
    from basicsr.cli import recognizer_check as check_recogniser

    assert check_recogniser.main([str(shared / 'weights' / file), '-i', str(shared / 'data/celebref512')]) == 0
    assert f'name          {Path(file).stem}\n' in capsys.readouterr().out
    assert FaceEmbedder(shared / 'weights' / file).name == Path(file).stem


@pytest.mark.parametrize('names', [(), ('a.png', 'b.png'), ('ann/a.png', 'ann/b.png'), ('ann/a.png', 'bob/a.png')])
def test_people_who_cannot_be_compared_are_an_error(
    tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    from basicsr.cli import recognizer_check as check_recogniser

    (tmp_path / 'people').mkdir()
    for name in names:
        imwrite(tmp_path / 'people' / name, to_image(smooth_faces(1)[0]))
    assert check_recogniser.main([str(save_tiny(tmp_path / 'tiny.pth')), '-i', str(tmp_path / 'people')]) == 2
    assert 'people: needs two folders of pictures or more' in capsys.readouterr().err


@pytest.mark.shared
def test_a_shifted_crop_does_not_pass_the_check(shared: Path, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.cli import recognizer_check as check_recogniser

    arguments = [str(shared / 'weights/mobilefacenet_casia128.pth'), '-i', str(few)]
    assert check_recogniser.main(arguments) == 0
    monkeypatch.setattr('basicsr.recognition.registry.ARCFACE_112', ARCFACE_112 + np.array([0, 12]))
    assert check_recogniser.main(arguments) == 1


@pytest.mark.shared
@pytest.mark.parametrize('file', ['arcface_mbf512.onnx', 'mobilefacenet_casia128.pth'])
def test_swapped_channels_tell_people_worse(shared: Path, few: Path, file: str) -> None:
    from basicsr.cli.recognizer_check import cosines, embed_people

    embedder = FaceEmbedder(shared / 'weights' / file)
    right = embedder.recognizer
    gaps = []
    for channels in (right.channels, {'rgb': 'bgr', 'bgr': 'rgb'}[right.channels]):
        embedder.recognizer = replace(right, channels=channels)
        same, different = cosines(*embed_people(embedder, few))
        gaps.append(float(same.mean() - different.mean()))
    assert gaps[0] > gaps[1] + 0.01


@pytest.mark.shared
def test_the_shared_onnx_recognizer_answers_as_in_onnxruntime(shared: Path) -> None:
    path = shared / 'weights/arcface_mbf512.onnx'
    embedder = FaceEmbedder(path)
    crops = embedder.preprocess(smooth_faces(3, 192))
    with torch.no_grad():
        torch.testing.assert_close(embedder.network(crops), onnx_answer(path, crops), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            embedder(smooth_faces(3, 192)), F.normalize(onnx_answer(path, crops)), rtol=1e-5, atol=1e-5
        )
