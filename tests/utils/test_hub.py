"""Weights of the Hugging Face Hub, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from guides import python_of, run_python
from small_faces import aligned_face, save_tiny_model

from basicsr.cli.main import main
from basicsr.inference import FaceRestorer
from basicsr.utils.hub import HubError, choose_file, fetch_from_hub, split_address
from basicsr.utils.image import imwrite

constants = pytest.importorskip('huggingface_hub.constants', reason='needs huggingface_hub, of the extra hub')

ROOT = Path(__file__).resolve().parents[2]
COMMIT = '0123456789abcdef0123456789abcdef01234567'


class Hub:
    """A hub with repositories (files by name) to read; those in `gated` ask for terms to be accepted."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.downloads = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                server.answer(self, False)

            def do_GET(self) -> None:
                server.answer(self, True)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on the screen."""

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'

    def answer(self, request: BaseHTTPRequestHandler, has_body: bool) -> None:
        kind, name, _, _, file = re.match(
            r'/(api/models/)?([^/?]+/[^/?]+)((/resolve|/revision)/main/?)?([^?]*)', request.path
        ).groups()
        files = self.repositories.get(name)
        if files is None:
            self.send(request, 404, b'', {'X-Error-Code': 'RepoNotFound'})
        elif name in self.gated:
            self.send(request, 403, b'', {'X-Error-Code': 'GatedRepo'})
        elif kind:
            about = {'id': name, 'sha': COMMIT, 'siblings': [{'rfilename': path} for path in files]}
            self.send(request, 200, json.dumps(about).encode())
        elif file not in files:
            self.send(request, 404, b'', {'X-Error-Code': 'EntryNotFound'})
        else:
            self.downloads += has_body
            tag = hashlib.sha256(files[file]).hexdigest()
            self.send(request, 200, files[file], {'ETag': f'"{tag}"', 'X-Repo-Commit': COMMIT}, has_body)

    @staticmethod
    def send(request, status: int, body: bytes, headers=None, has_body: bool = True) -> None:
        request.send_response(status)
        for key, value in {**(headers or {}), 'Content-Length': str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if has_body and request.command != 'HEAD':
            request.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub whose repository OWNER/NAME has a small network, and an empty cache."""
    served = Hub()
    served.repositories['OWNER/NAME'] = {
        'README.md': b'# A network',
        'codeformer_128.safetensors.pth': save_tiny_model(tmp_path / 'net.pth').read_bytes(),
    }
    thread = threading.Thread(target=served.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv('HF_ENDPOINT', served.url)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    yield served
    served.http.shutdown()
    thread.join()
    served.http.server_close()


def test_a_network_of_the_hub_restores_and_is_downloaded_once(server):
    restorer = FaceRestorer.from_pretrained('OWNER/NAME', device='cpu')
    assert 'hf:OWNER/NAME' in restorer.description
    assert restorer.restore(aligned_face(64))[0].shape == (64, 64, 3)
    FaceRestorer.from_pretrained('OWNER/NAME', 'codeformer_128.safetensors.pth', device='cpu')
    assert server.downloads == 1


def test_a_file_that_is_named_needs_no_network_the_second_time(server, monkeypatch):
    address = 'hf:OWNER/NAME/codeformer_128.safetensors.pth'
    path = fetch_from_hub(address)
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')  # where nobody listens
    assert fetch_from_hub(address) == path
    with pytest.raises(HubError, match=r'could not be downloaded.*or name a file that is in the cache'):
        fetch_from_hub('hf:OWNER/NAME')


def test_commands_of_the_guide(server, tmp_path, monkeypatch):
    names = server.repositories['OWNER/NAME']
    names['codeformer_128.safetensors'] = (ROOT / 'weights' / 'small' / 'codeformer_128.safetensors').read_bytes()
    page = (ROOT / 'docs' / 'integrations.md').read_text(encoding='utf-8').split('## Hugging Face Hub')[1]
    imwrite(tmp_path / 'photo.jpg', aligned_face(128))
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r'^id-codeformer (restore .*)$', page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main([*shlex.split(command), '--has_aligned', '--device', 'cpu']) == 0
    said = run_python(f'{python_of("integrations.md", "Hugging Face Hub")}\nprint(restorer.color_fix)', tmp_path)
    assert said.split() == ['True']  # it is the embedded model


def test_what_cannot_be_had_is_one_line(server, tmp_path, capsys):
    server.repositories['OWNER/GATED'] = {}
    server.gated.add('OWNER/GATED')
    imwrite(tmp_path / 'photo.png', aligned_face(64))
    for address, message in (
        ('hf:OWNER/NONE', 'no such repository'),
        ('hf:OWNER/NAME/none.pth', 'has no file none.pth'),
        ('hf:OWNER/GATED/x.pth', 'accept the terms'),
        ('hf:OWNER/NA..ME', 'no name of a repository'),
        ('hf:OWNER', 'must be hf:OWNER/NAME'),
    ):
        arguments = ['restore', '-i', str(tmp_path / 'photo.png'), '-o', str(tmp_path / 'out'), '--model', address]
        assert main([*arguments, '--has_aligned']) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]
        assert len(errors) == 1
        assert message in errors[0]
        assert address in errors[0]


def test_the_file_is_chosen_or_has_to_be_named():
    assert split_address('hf:A/B') == ('A/B', None)
    assert split_address('hf:A/B/folder/c.pth') == ('A/B', 'folder/c.pth')
    assert choose_file('A/B', ['README.md', 'a.pth', 'b.pth', 'c.safetensors']) == 'c.safetensors'
    with pytest.raises(HubError, match=r'several weights files \(a.pth, b.pth\); name one, as in hf:A/B/a.pth'):
        choose_file('A/B', ['a.pth', 'b.pth'])
    with pytest.raises(HubError, match=r'has no .safetensors or .pth file; it has README.md'):
        choose_file('A/B', ['README.md'])
