"""The report in a browser, empty folders, and figures of real faces held against other code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from scipy.ndimage import gaussian_filter
from small_recognizer import save_tiny, smooth_faces

from basicsr.metrics.builders import Settings
from basicsr.metrics.charts import histogram, scatter
from basicsr.metrics.evaluation import evaluate
from basicsr.metrics.report import write_report
from basicsr.metrics.table import EvaluationError
from basicsr.utils.image import imread, imwrite, to_image
from basicsr.utils.templates import ARCFACE_112, ffhq_template
from experiments.ablation.charts import boxes, standalone

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
ASK = """<script>document.addEventListener('DOMContentLoaded', () => {
const size = e => { const r = e.getBoundingClientRect(); return [r.width, r.height, r.right]; };
document.body.dataset.seen = JSON.stringify({
  pictures: [...document.images].map(image => [image.complete, image.naturalWidth, ...size(image)]),
  charts: [...document.querySelectorAll('svg')].map(size),
  lines: [...document.querySelectorAll('polyline')].map(line => line.getTotalLength()),
  width: document.documentElement.clientWidth, needed: document.documentElement.scrollWidth});
});</script>"""


@pytest.fixture
def browser() -> str:
    """A headless browser; the test is skipped where there is none."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f'needs a browser: one of {", ".join(BROWSERS)}')
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Ground truth, restorations and a judge."""
    rng = np.random.default_rng(0)
    for number, face in enumerate(smooth_faces(5, 96)):
        clean = to_image(face)
        for folder, sigma in (('gt', 0), ('good', 5), ('bad', 40)):
            noisy = (clean + rng.normal(0, sigma, clean.shape)).clip(0, 255).astype(np.uint8)
            imwrite(tmp_path / folder / f'{number}.png', noisy)
    save_tiny(tmp_path / 'tiny.pth')
    return tmp_path


def test_the_report_in_a_browser(browser: str, folders: Path) -> None:
    restored = [folders / 'good', folders / 'bad']
    settings = Settings(recognizer=str(folders / 'tiny.pth'))
    write_report(folders, evaluate(restored, {'gt': folders / 'gt'}, ['psnr', 'ids'], settings))
    page = (folders / 'report.html').read_text(encoding='utf-8')
    (folders / 'asked.html').write_text(page.replace('</body>', f'{ASK}</body>'), encoding='utf-8')
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--window-size=1120,2000', '--dump-dom']
    command += [f'--user-data-dir={folders / "profile"}', (folders / 'asked.html').as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(unescape(re.search(r'data-seen="([^"]*)"', shown)[1]))
    assert len(seen['pictures']) == 2 * 5 * 2  # runs, faces, and of each restored and ground truth
    for complete, natural, width, height, right in seen['pictures']:
        assert complete and natural == 96 and width == height == 110 and right <= seen['width']
    assert len(seen['charts']) == 2 and all(chart[:2] == [640, 320] for chart in seen['charts'])
    assert len(seen['lines']) == 2 and min(seen['lines']) > 500
    assert seen['needed'] <= seen['width']


def test_charts_stand_alone_in_a_browser(browser: str, tmp_path: Path) -> None:
    values = {'A & B': [0.1, 0.2, 0.9], 'C': [0.3, 0.4]}
    dots = {'A & B': {'x': (1.0, 0.5)}, 'C': {'y': (2.0, 0.4)}}
    charts = {'bars': histogram(values, 'IDS'), 'dots': scatter(dots, ('PSNR', 'IDS'), numbered=True)}
    for name, chart in {**charts, 'boxes': boxes(values, 'IDS')}.items():
        (tmp_path / f'{name}.svg').write_text(standalone(chart, list(values), 'set'), encoding='utf-8')
        shot = tmp_path / f'{name}.png'
        command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--window-size=640,400']
        command += [f'--user-data-dir={tmp_path / "profile"}', f'--screenshot={shot}']
        subprocess.run([*command, (tmp_path / f'{name}.svg').as_uri()], capture_output=True, timeout=120, check=True)
        image = imread(shot).astype(int)
        for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # both runs are drawn, and both are in the legend
            there = np.abs(image - colour).max(2) < 12
            assert there[320:].sum() > 50, name
            if name != 'dots':
                assert there[:320].sum() > 200
        assert (image.sum(2) < 200).sum() > 200  # text


def test_dots_carry_the_number_of_their_run_where_there_are_many():
    dots = {name: {'1.png': (20.0, 0.5), '2.png': (21.0, 0.6)} for name in ('one', 'other')}
    plain, numbered = (scatter(dots, ('PSNR', 'IDS'), numbered=flag) for flag in (False, True))
    assert [numbered.count(f'>{number}</text>') - plain.count(f'>{number}</text>') for number in (1, 2, 3)] == [2, 2, 0]


def test_boxes_stand_where_the_quantiles_are() -> None:
    chart = ET.fromstring(
        boxes({'least': [0.0] * 9, 'most': [1.0] * 9, 'between': list(np.linspace(0, 1, 101))}, 'IDS')
    )
    places = [(float(box.get('x')), float(box.get('width'))) for box in chart.iter('rect')]
    left, right = 56, 640 - 16  # 0 and 1
    assert places == [(left, 0), (right, 0), (left + (right - left) / 4, (right - left) / 2)]
    assert [text.text for text in chart.iter('text')][-3:] == ['1', '2', '3']


@pytest.mark.parametrize('role', ['--restored', '--gt', '--lq', '--ref'])
def test_an_empty_folder_is_one_message(role: str, folders: Path) -> None:
    (folders / 'empty').mkdir()
    others = {'gt': folders / 'gt'}
    if role != '--restored':
        others[role.removeprefix('--')] = folders / 'empty'
    restored = folders / ('empty' if role == '--restored' else 'good')
    with pytest.raises(EvaluationError, match=rf'^{role}: {folders}/empty holds no picture$'):
        evaluate([restored], others, ['psnr'], Settings())


# ---- real faces, other code


def ssim_of(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al. (2004), equation 13, from Gaussian means of sigma 1.5 over 11 taps; a mean of valid windows."""

    def mean(plane: np.ndarray) -> np.ndarray:
        return gaussian_filter(plane, (1.5, 1.5, 0), radius=(5, 5, 0))

    a, b = first.astype(float), second.astype(float)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    m, n = mean(a), mean(b)
    cross, aa, bb = mean(a * b) - m * n, mean(a * a) - m * m, mean(b * b) - n * n
    value = (2 * m * n + c1) * (2 * cross + c2) / ((m * m + n * n + c1) * (aa + bb + c2))
    return float(value[5:-5, 5:-5].mean())


def embedding_of(image: np.ndarray, session: onnxruntime.InferenceSession) -> np.ndarray:
    """By ONNX Runtime, of a crop by OpenCV: warped at eight times its size, then averaged."""
    (x, y), one, none = ffhq_template(len(image)).T, np.ones(5), np.zeros(5)
    equations = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    a, b, right, down = np.linalg.lstsq(equations, ((ARCFACE_112 + 0.5) * 8 - 0.5).T.ravel(), rcond=None)[0]
    large = cv2.warpAffine(image, np.array([[a, -b, right], [b, a, down]]), (896, 896), flags=cv2.INTER_LINEAR)
    crop = cv2.resize(large, (112, 112), interpolation=cv2.INTER_AREA)
    pixels = (crop[..., ::-1].astype(np.float32) - 127.5) / 127.5
    vector = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})[0][0]
    return vector / np.linalg.norm(vector)


@pytest.mark.shared
@pytest.mark.parametrize(('source', 'side'), [('faces192/val', 192), ('celebref512/00005', 256)])
def test_figures_of_real_folders_equal_other_code(source: str, side: int, shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / 'data' / source).glob('*.jpg'))[:3]:
        image = cv2.resize(imread(path), (side, side), interpolation=cv2.INTER_AREA)
        imwrite(tmp_path / 'gt' / f'{path.stem}.png', image)
        worse = cv2.resize(cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), (side, side))
        imwrite(tmp_path / 'out' / f'{path.stem}.png', worse)
    weights = shared / 'weights' / 'arcface_mbf512.onnx'
    session = onnxruntime.InferenceSession(str(weights), providers=['CPUExecutionProvider'])
    settings = Settings(recognizer=str(weights))
    run = evaluate([tmp_path / 'out'], {'gt': tmp_path / 'gt'}, ['psnr', 'ssim', 'ids'], settings).runs[0]
    assert len(run.scores) == 3 and not run.problems
    for name, scores in run.scores.items():
        restored, truth = (imread(tmp_path / folder / f'{name}.png') for folder in ('out', 'gt'))
        assert scores['psnr'] == pytest.approx(cv2.PSNR(restored, truth), rel=1e-9)
        assert scores['ssim'] == pytest.approx(ssim_of(restored, truth), abs=1e-9)
        expected = float(embedding_of(restored, session) @ embedding_of(truth, session))
        assert 0.1 < expected < 0.97
        assert scores['ids'] == pytest.approx(expected, abs=0.02)
