"""Results as JPEG and WebP: pixels, metadata, what the formats do not hold, and where a picture was taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from odd_pictures import deep, grey_profile, rgb_profile, save, scene, soft_alpha
from PIL import Image
from PIL.ExifTags import IFD
from small_faces import Found, Unchanged

from basicsr.cli import restore
from basicsr.inference import ImageRestorer
from basicsr.inference.jobs import Job, plan_jobs
from basicsr.inference.runner import Runner
from basicsr.utils.picture import Picture, read_picture
from basicsr.utils.picture_formats import LONGEST_SEGMENT, left_behind, write_picture
from basicsr.utils.picture_metadata import Metadata

GPS = b'exif:GPSLatitude="48,1N"'
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d '
    + GPS
    + b' dc:title="t"><exif:GPSAltitude>1</exif:GPSAltitude></d></x:xmpmeta>'
)
IPTC = b'\x1c\x02\x78\x00\x09a caption'


def photograph(path: Path) -> Picture:
    """Return a picture as a phone writes it."""
    exif = Image.Exif()
    exif[0x0110], exif[IFD.GPSInfo] = 'a phone', {1: 'N', 2: (48.0, 1.0, 2.0)}
    exif[IFD.Exif] = {36867: '2001:02:03 04:05:06'}
    save(scene(), exif=exif, xmp=XMP, comment='a comment', dpi=(300, 300), icc_profile=rgb_profile())(path)
    return read_picture(path)


@pytest.mark.parametrize('extension', ['png', 'jpg', 'webp'])
@pytest.mark.parametrize('keep_gps', [False, True])
def test_date_and_camera_stay_and_the_position_where_asked(tmp_path, extension, keep_gps):
    photograph(tmp_path / 'a.jpg')
    restorer = ImageRestorer(Unchanged(64), Found(), upscale=1)
    runner = Runner(restorer, tmp_path / 'out', extension=extension, keep_gps=keep_gps)
    (record,) = runner.run([Job(tmp_path / 'a.jpg', 'a')])
    assert record.outputs == [f'final_results/a.{extension}']
    result = Image.open(tmp_path / 'out' / record.outputs[0])
    exif, xmp = result.getexif(), result.info['xmp']
    assert exif[0x0110] == 'a phone' and exif.get_ifd(IFD.Exif)[36867] == '2001:02:03 04:05:06'
    assert (IFD.GPSInfo in exif) == keep_gps and (b'GPS' in xmp) == keep_gps and b'dc:title="t"' in xmp
    assert result.info['icc_profile'] == rgb_profile()
    if extension != 'webp':
        assert result.info['dpi'] == pytest.approx((300, 300), abs=0.02)
    assert ('WebP does not hold texts' in record.message) == (extension == 'webp')


def test_a_jpeg_carries_comment_and_caption(tmp_path):
    picture = photograph(tmp_path / 'a.jpg')
    picture = replace(picture, metadata=replace(picture.metadata, iptc=IPTC))
    write_picture(tmp_path / 'b.jpg', picture)
    again = read_picture(tmp_path / 'b.jpg')
    assert again.metadata.iptc == IPTC and again.metadata.texts == (('Comment', 'a comment'),)
    assert left_behind(picture, 'jpg') == '' and 'IPTC, texts' in left_behind(picture, 'webp')


@pytest.mark.parametrize(('extension', 'error'), [('png', 0), ('jpg', 6), ('webp', 8)])
def test_the_pixels_are_those_of_the_picture(tmp_path, extension, error):
    smooth = np.linspace(0, 255, 64)[None, :, None] * np.ones((48, 1, 3))
    image = smooth.astype(np.uint8)
    write_picture(tmp_path / f'a.{extension}', Picture(image))
    written = np.asarray(Image.open(tmp_path / f'a.{extension}').convert('RGB')).astype(int)
    assert np.abs(written - image).max() <= error


def test_quality_costs_bytes(tmp_path):
    sizes = []
    for quality in (20, 95):
        for extension in ('jpg', 'webp'):
            write_picture(tmp_path / f'a.{extension}', Picture(scene(200, 150)), quality)
            sizes.append((tmp_path / f'a.{extension}').stat().st_size)
    assert sizes[0] < sizes[2] and sizes[1] < sizes[3]


def test_a_jpeg_is_on_white_and_a_webp_transparent(tmp_path):
    picture = Picture(scene(), soft_alpha())
    clear = picture.alpha == 0
    assert clear.any()
    write_picture(tmp_path / 'a.jpg', Picture(np.zeros_like(picture.image), np.where(clear, 0, 255).astype(np.uint8)))
    grey = np.asarray(Image.open(tmp_path / 'a.jpg').convert('L'))
    inner = Image.fromarray(clear).resize(grey.shape[::-1])
    assert grey[np.asarray(inner)].mean() > 230
    write_picture(tmp_path / 'a.webp', picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'a.webp'))[..., 3], picture.alpha)
    assert 'transparency' in left_behind(picture, 'jpg') and left_behind(picture, 'webp') == ''


def test_a_grey_jpeg_has_one_channel_and_its_profile(tmp_path):
    picture = Picture(np.dstack([scene()[..., 1]] * 3), icc=grey_profile(), grey=True)
    write_picture(tmp_path / 'a.jpg', picture)
    result = Image.open(tmp_path / 'a.jpg')
    assert result.mode == 'L' and result.info['icc_profile'] == grey_profile()
    write_picture(tmp_path / 'a.webp', picture)
    assert 'icc_profile' not in Image.open(tmp_path / 'a.webp').info and 'grey profile' in left_behind(picture, 'webp')


def test_what_a_format_does_not_hold_is_named():
    long = Metadata(exif=bytes(LONGEST_SEGMENT + 1))
    picture = Picture(deep(scene()), colour=b'gAMA', metadata=long)
    assert (
        left_behind(picture, 'jpg')
        == 'JPEG does not hold 16 bits, gamma, EXIF of that length; use --ext png to keep it'
    )
    assert left_behind(picture, 'png') == ''


def test_sides_that_a_format_does_not_hold_are_an_error(tmp_path):
    with pytest.raises(ValueError, match='WebP holds 16383 a side; use --ext png'):
        write_picture(tmp_path / 'a.webp', Picture(np.zeros((2, 16384, 3), np.uint8)))
    with pytest.raises(ValueError, match=r'cannot write "\.gif"'):
        write_picture(tmp_path / 'a.gif', Picture(scene()))
    assert list(tmp_path.iterdir()) == []


def test_names_of_results_keep_clear_of_folders_in_any_format(tmp_path):
    save(scene())(tmp_path / 'a.png')
    (tmp_path / 'a.jpg').mkdir()
    save(scene())(tmp_path / 'a.jpg' / 'b.png')
    names = [job.name for job in plan_jobs(tmp_path, tmp_path / 'out')]
    assert sorted(names) == ['a.jpg/b', 'a~2']


@pytest.mark.parametrize('settings', [{'extension': 'gif'}, {'quality': 0}, {'quality': 101}])
def test_formats_and_qualities_that_are_none_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match='must be'):
        Runner(ImageRestorer(Unchanged(64), Found()), tmp_path, **settings)


def test_the_command_writes_the_format_asked_for(tmp_path, monkeypatch):
    restorer = ImageRestorer(Unchanged(64), Found(), upscale=1)
    restorer.faces.restorer.description = 'a stand-in'
    monkeypatch.setattr(restore, 'build_restorer', lambda args: restorer)
    photograph(tmp_path / 'a.jpg')
    flags = ['--ext', 'webp', '--quality', '80', '--keep_gps']
    assert restore.main(['-i', str(tmp_path / 'a.jpg'), '-o', str(tmp_path / 'out'), *flags]) == 1  # no face
    assert IFD.GPSInfo in Image.open(tmp_path / 'out' / 'final_results' / 'a.webp').getexif()
    assert restore.main(['-i', str(tmp_path / 'a.jpg'), '-o', str(tmp_path / 'out'), '--quality', '0']) == 2
