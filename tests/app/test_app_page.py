"""The page as its visitors have it: one server, asked through the API and looked at in a browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from guides import python_of, run_python
from odd_pictures import save
from PIL import Image
from small_faces import blurred_portrait, portrait, save_tiny_model
from small_recognizer import save_tiny

pytest.importorskip('gradio', reason='the page needs the extra app')

from basicsr.cli import app

ROOT = Path(__file__).parents[2]
CHROMIUM = '/usr/bin/chromium'
BROWSER_FLAGS = [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
]  # fmt: skip
PATIENCE = 60_000  # milliseconds, of busy machines


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Uploads: a picture with a face, a photograph of the person, and a text that claims to be a picture."""
    folder = tmp_path_factory.mktemp('uploads')
    save(blurred_portrait())(folder / 'photo.png')
    save(portrait())(folder / 'her.png')
    (folder / 'text.jpg').write_text('no picture')
    return folder


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    """Where a page with a small network is; afterwards it is ended, and must have left nothing."""
    work = tmp_path_factory.mktemp('server')
    (work / 'temporary').mkdir()
    recognizer = str(save_tiny(work / 'recognizer.pth'))
    flags = ['--model', str(save_tiny_model(work / 'tiny.pth')), '--device', 'cpu', '--recognizer', recognizer]
    command = [sys.executable, '-m', 'id_codeformer', 'app', '--port', str(free_port()), '--weights_dir', str(work)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'TMPDIR': str(work / 'temporary')}
    with subprocess.Popen(
        [*command, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if 'The page is at' in line:
                break
        assert lines and 'The page is at' in lines[-1], lines
        yield lines[-1].split()[4].rstrip(';')
        assert list((work / 'temporary').glob('id-codeformer-*'))
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=60)[0]
        assert server.returncode == 0, said
        assert 'Traceback' not in said, said
    assert not list((work / 'temporary').glob('id-codeformer-*'))


def test_the_api_restores_decodes_and_packs(address, folder, tmp_path):
    client_module = pytest.importorskip('gradio_client', reason='the API is asked through gradio_client')
    file = client_module.handle_file
    client = client_module.Client(address, verbose=False, download_files=tmp_path)
    photo = [file(str(folder / 'photo.png'))]
    client.predict('Eileen', [file(str(folder / 'her.png'))], api_name='/add_person')
    settings = {'w': 0.8, 'upscale': 1, 'force': True, 'threshold': 0.05}
    faces, left_out, _, message, whole, face, table, _ = client.predict(photo, **settings, api_name='/restore')
    assert len(faces) == 1 and left_out['choices'] == [['0 · photo', '0 · photo']] and '1 restored' in message
    before, after = (np.asarray(Image.open(path).convert('RGB')) for path in whole)
    assert before.shape == after.shape == (512, 512, 3) and not np.array_equal(before, after)
    assert table['data'][0][1] == 'Eileen'
    moved = client.predict(0.1, False, 1, api_name='/decode')
    assert not np.array_equal(*(np.asarray(Image.open(path)) for path in (face[1], moved[1][1])))
    with zipfile.ZipFile(client.predict('png', False, api_name='/pack')) as archive:
        assert {'summary.json', 'final_results/photo.png'} <= set(archive.namelist())
    with pytest.raises(client_module.exceptions.AppError, match=r'^text\.jpg: not a readable picture'):
        client.predict([file(str(folder / 'text.jpg'))], api_name='/restore')
    with pytest.raises(client_module.exceptions.AppError, match='restore the pictures first'):
        client_module.Client(address, verbose=False).predict('png', False, api_name='/pack')
    client.predict(api_name='/cancel')


def test_python_of_the_guide_runs(address, folder, tmp_path):
    pytest.importorskip('gradio_client', reason='the API is asked through gradio_client')
    code = python_of('app.md')
    assert 'http://127.0.0.1:7860' in code
    said = run_python(code.replace('http://127.0.0.1:7860', address), folder, GRADIO_TEMP_DIR=str(tmp_path))
    with zipfile.ZipFile(said.splitlines()[-1]) as archive:
        assert 'final_results/photo.png' in archive.namelist()


@pytest.fixture
def tab(address):
    """A page of the browser, and the addresses that it asked for."""
    playwright = pytest.importorskip('playwright.sync_api', reason='the browser is driven by playwright')
    if not shutil.which(CHROMIUM):
        pytest.skip(f'no chromium at {CHROMIUM}')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=BROWSER_FLAGS)
        tab = browser.new_page(viewport={'width': 1360, 'height': 1000})
        tab.set_default_timeout(PATIENCE)
        asked: list[str] = []
        tab.on('request', lambda request: asked.append(request.url))
        tab.goto(address)
        tab.wait_for_selector('#restore')
        yield tab
        assert not [url for url in asked if not url.startswith((address, 'data:', 'blob:'))]
        browser.close()


def wait_for_message(tab, words: str) -> None:
    tab.wait_for_function('words => document.querySelector("#message textarea").value.includes(words)', arg=words)


def test_the_page_restores_follows_its_slider_knows_people_and_says_what_is_no_picture(tab, folder):
    tab.set_input_files('#files input[type=file]', str(folder / 'text.jpg'))
    wait_for_message(tab, 'text.jpg: not a readable picture')
    tab.wait_for_selector('.toast-wrap :text("text.jpg: not a readable picture")')
    tab.reload()
    tab.wait_for_selector('#restore')

    tab.set_input_files('#files input[type=file]', str(folder / 'photo.png'))
    wait_for_message(tab, '1 face found')
    assert tab.locator('#faces img').count() == 1 and tab.locator('#left_out input').count() == 1
    tab.click('#people button')
    tab.fill('#name textarea, #name input', 'Eileen')
    tab.set_input_files('#photos input[type=file]', str(folder / 'her.png'))
    tab.wait_for_selector('#photos :text("her")')
    tab.click('#add')
    tab.wait_for_selector('#persons :text("Eileen") >> visible=true')
    tab.click(':text-is("Restore sharp faces, too")') if tab.is_visible(
        ':text-is("Restore sharp faces, too")'
    ) else None
    tab.click('#restore')
    wait_for_message(tab, '1 restored')
    tab.wait_for_selector('#whole img')
    tab.wait_for_selector('#identity :text("Eileen") >> visible=true')

    after = '[...document.querySelectorAll("#face img")].pop().src'
    shown = tab.evaluate(after)
    tab.locator('#w input[type=range]').focus()
    tab.keyboard.press('ArrowLeft')
    tab.wait_for_function(f'shown => {after} !== shown', arg=shown)
    tab.click('#pack')
    tab.wait_for_selector('#archive a')
    text = tab.inner_text('body') + tab.input_value('#message textarea')
    assert not [path for path in (str(folder), str(ROOT), os.sep + 'tmp', str(Path.home())) if path in text]


def test_a_page_that_cannot_begin_says_why(tmp_path, capsys):
    assert app.main(['--model', str(tmp_path / 'none.pth')]) == 2
    assert 'none.pth: no such model file' in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        model = str(save_tiny_model(tmp_path / 'tiny.pth'))
        assert app.main(['--port', port, '--model', model, '--weights_dir', str(tmp_path), '--device', 'cpu']) == 2
    assert f'error: port {port} is taken; choose another --port' in capsys.readouterr().err
