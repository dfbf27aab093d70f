"""What picture files say beside their pixels is kept, and formats that need a reader of their own are read."""

from __future__ import annotations

import builtins
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from odd_pictures import deep, png_chunk, save, save_deep, scene
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD
from small_faces import Found, Unchanged, aligned_face

from basicsr.inference import ImageRestorer
from basicsr.inference.jobs import Job
from basicsr.inference.runner import Runner
from basicsr.utils.image import ImageReadError
from basicsr.utils.picture import read_picture, write_png

DATA = Path(__file__).parents[1] / 'trials'
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6">a title</d></x:xmpmeta>'


def through(source: Path, folder: Path, **settings) -> Image.Image:
    """The file that a run without a face writes for `source`, loaded."""
    restorer = ImageRestorer(Unchanged(64), Found(), upscale=1)
    (record,) = Runner(restorer, folder / 'out', **settings).run([Job(source, 'a')])
    assert record.status == 'no_face', record.message
    result = Image.open(folder / 'out' / record.outputs[-1])
    result.load()
    return result


def test_date_camera_caption_and_resolution_of_a_photograph_are_kept(tmp_path):
    result = through(DATA / 'metadata_exif.jpg', tmp_path)
    exif = result.getexif()
    assert (exif[306], exif[270], exif[271]) == ('2001:02:03 04:05:06', 'a caption', 'MakerX')
    assert exif.get_ifd(IFD.Exif)[36867] == '2001:02:03 04:05:06'
    assert result.info['dpi'] == pytest.approx((300, 300), abs=0.01)


def test_gamma_is_kept_with_the_values_it_is_for(tmp_path):
    result = through(DATA / 'metadata_gamma.png', tmp_path)
    assert result.info['gamma'] == 1.0
    assert np.array_equal(np.asarray(result), np.asarray(Image.open(DATA / 'metadata_gamma.png')))


def test_colour_chunks_are_kept_to_the_byte(tmp_path):
    chunks = {'cICP': bytes([9, 16, 0, 1]), 'cHRM': struct.pack('>8I', *range(1, 9)), 'gAMA': struct.pack('>I', 45455)}
    save_deep(deep(scene()), **chunks)(tmp_path / 'a.png')
    picture = read_picture(tmp_path / 'a.png')
    assert picture.colour == b''.join(png_chunk(name.encode(), content) for name, content in chunks.items())
    write_png(tmp_path / 'b.png', picture)
    assert all(png_chunk(name.encode(), chunks[name]) in (tmp_path / 'b.png').read_bytes() for name in chunks)


def test_a_turned_photograph_is_upright_in_pixels_exif_and_xmp(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, 'the owner'
    exif[IFD.GPSInfo] = {1: 'N', 2: (1.0, 2.0, 3.0)}
    exif[IFD.Exif] = {36867: '2001:02:03 04:05:06', 0xA002: 64, 0xA003: 48}
    save(scene(), exif=exif, xmp=XMP, comment='a comment')(tmp_path / 'a.jpg')
    result = through(tmp_path / 'a.jpg', tmp_path, keep_gps=True)
    kept = result.getexif()
    assert result.size == (48, 64) and kept[0x0112] == 1 and kept[0x8298] == 'the owner'
    assert kept.get_ifd(IFD.GPSInfo) == {1: 'N', 2: (1.0, 2.0, 3.0)}
    assert kept.get_ifd(IFD.Exif) == {36867: '2001:02:03 04:05:06'}
    assert result.info['xmp'] == XMP.replace(b'"6"', b'"1"') and result.text['Comment'] == 'a comment'


def test_texts_of_a_png_and_captions_of_iptc_are_kept(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text('Software', 'plain')
    texts.add_itxt('Title', '漢字')
    Image.fromarray(scene()).save(tmp_path / 'a.png', pnginfo=texts)
    kept = through(tmp_path / 'a.png', tmp_path).text
    assert kept == {'Software': 'plain', 'Title': '漢字'}
    records = b'\x1c\x02\x78\x00\x09a caption'
    segment = b'Photoshop 3.0\0' + b'8BIM' + struct.pack('>HHI', 0x0404, 0, len(records)) + records
    save(scene())(tmp_path / 'b.jpg')
    raw = (tmp_path / 'b.jpg').read_bytes()
    (tmp_path / 'b.jpg').write_bytes(raw[:2] + b'\xff\xed' + struct.pack('>H', len(segment) + 2) + segment + raw[2:])
    profile = through(tmp_path / 'b.jpg', tmp_path).text['Raw profile type iptc'].split('\n')
    assert profile[1] == 'iptc' and records in bytes.fromhex(''.join(profile[3:]))


def test_damaged_metadata_is_said_and_costs_nothing_else(tmp_path):
    save(scene(), dpi=(300, 300))(tmp_path / 'a.png')
    raw = (tmp_path / 'a.png').read_bytes()
    (tmp_path / 'a.png').write_bytes(raw[:33] + png_chunk(b'eXIf', b'no TIFF') + raw[33:])
    picture = read_picture(tmp_path / 'a.png')
    assert 'its EXIF, which is damaged, was left out' in picture.note
    assert picture.metadata.exif == b'' and picture.metadata.dpi == pytest.approx((300, 300), abs=0.01)


def test_crops_of_faces_carry_colours_but_no_place_and_no_date(tmp_path):
    picture = read_picture(DATA / 'metadata_exif.jpg')
    write_png(tmp_path / 'crop.png', picture.holding(picture.image[:64, :64]))
    assert not Image.open(tmp_path / 'crop.png').getexif()


def test_floating_point_colours_are_read_as_sixteen_bits():
    picture = read_picture(DATA / 'float_rgb.tif')
    wanted = tifffile.imread(DATA / 'float_rgb.tif')
    assert picture.image.dtype == np.uint16 and picture.note == ''
    assert np.abs(picture.image / 65535 - wanted).max() < 1 / 65535


@pytest.mark.parametrize(
    ('peak', 'whole', 'white', 'words'),
    [(0.5, False, 1, ''), (200, True, 255, '255 was taken'), (3000, True, 65535, '65535 was'), (4, False, 4, '4 was')],
)
def test_floating_point_samples_are_scaled_by_what_they_reach(tmp_path, peak, whole, white, words):
    samples = np.linspace(0, peak, 48, dtype=np.float32).reshape(6, 8)
    samples = np.rint(samples) if whole else samples
    for name, stored in (('grey.tif', samples), ('colour.tif', np.dstack([samples] * 3))):
        tifffile.imwrite(tmp_path / name, stored, photometric='minisblack' if stored.ndim == 2 else 'rgb')
        picture = read_picture(tmp_path / name)
        assert words in picture.note and bool(words) == bool(picture.note)
        assert np.abs(picture.image[..., 0] / 65535 - samples / white).max() < 1 / 65535


def test_samples_that_are_no_number_and_below_black_are_said(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', np.array([[np.nan, -1], [0.5, np.inf]], np.float32))
    picture = read_picture(tmp_path / 'a.tif')
    assert '2 samples that are no number' in picture.note and 'below 0' in picture.note
    assert picture.image[..., 0].tolist() == [[0, 0], [32768, 0]]


def test_heic_is_read_with_the_package_for_it_and_named_without(tmp_path, monkeypatch):
    heif = pytest.importorskip('pillow_heif')
    exif = Image.Exif()
    exif[271] = 'a phone'
    heif.from_pillow(Image.fromarray(scene())).save(tmp_path / 'a.heic', quality=95, exif=exif.tobytes())
    picture = read_picture(tmp_path / 'a.heic')
    assert picture.image.shape == (48, 64, 3) and np.abs(picture.image.astype(int) - scene()).mean() < 8
    assert b'a phone' in picture.metadata.exif
    monkeypatch.setattr(Image, 'OPEN', {name: how for name, how in Image.OPEN.items() if name != 'HEIF'})
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name == 'pillow_heif':
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(
        ImageReadError, match=r'HEIC needs the package pillow-heif: pip install "id-codeformer\[heic\]"'
    ):
        read_picture(tmp_path / 'a.heic')


def test_aligned_faces_come_back_in_their_size_and_depth_or_in_that_of_the_network(tmp_path):
    face = aligned_face(100)
    save_deep(deep(face))(tmp_path / 'deep.png')
    save(aligned_face(40))(tmp_path / 'small.png')
    jobs = [Job(tmp_path / f'{name}.png', name) for name in ('deep', 'small')]
    for network_size, sides in ((False, (100, 40)), (True, (64, 64))):
        output = tmp_path / str(network_size)
        runner = Runner(ImageRestorer(Unchanged(64)), output, aligned=True, network_size=network_size)
        records = list(runner.run(jobs))
        assert [record.status for record in records] == ['restored', 'restored']
        results = [cv2.imread(str(output / record.outputs[0]), cv2.IMREAD_UNCHANGED) for record in records]
        assert [(image.shape[0], image.dtype) for image in results] == [(sides[0], np.uint16), (sides[1], np.uint8)]
        assert ('reduced from 64 to its own 40' in records[1].message) is not network_size
    assert json.dumps([record.message for record in records])
