"""Downloads against a server on this machine: complete and verified, or not there."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from basicsr.utils.download import DownloadError, download, sha256_of
from basicsr.utils.weights import read_manifest

ROOT = Path(__file__).resolve().parents[1]
CONTENT = bytes(range(256)) * 400
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A loopback server of `CONTENT` under every path but `/missing`, with faults to order.

    Attributes:
        ranges: whether Range requests are honoured.
        cut: bytes after which each of the next answers breaks off; answers after that are whole.
        seen: the Range header of every request, None where there was none.
    """

    def __init__(self) -> None:
        self.ranges = True
        self.cut: list[int] = []
        self.seen: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on the screen."""

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}/file.pth'
        self.missing = f'http://127.0.0.1:{self.http.server_port}/missing'

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get('Range')
        self.seen.append(asked)
        if request.path == '/missing':
            request.send_error(404)
            return
        start = int(asked.removeprefix('bytes=').rstrip('-')) if asked and self.ranges else 0
        if start >= len(CONTENT):
            request.send_error(416)
            return
        body = CONTENT[start:]
        request.send_response(206 if asked and self.ranges else 200)
        request.send_header('Content-Length', str(len(body)))
        if asked and self.ranges:
            request.send_header('Content-Range', f'bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}')
        request.end_headers()
        request.wfile.write(body[: self.cut.pop(0)] if self.cut else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.mark.parametrize('sha256', [SUM, SUM.upper(), SUM[:8], None])
def test_good_file_in_a_new_folder(server: Server, tmp_path: Path, sha256: str | None) -> None:
    target = tmp_path / 'a' / 'b' / 'file.pth'
    assert download(server.url, str(target), sha256=sha256, size=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert sha256_of(target) == SUM
    assert [path.name for path in target.parent.iterdir()] == ['file.pth']


def test_verified_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / 'file.pth'
    target.write_bytes(CONTENT)
    download(server.url, target, sha256=SUM)
    assert server.seen == []


def test_file_with_another_sum_is_replaced(server: Server, tmp_path: Path) -> None:
    target = tmp_path / 'file.pth'
    target.write_bytes(b'old')
    download(server.url, target, sha256=SUM)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('expected', 'message'),
    [
        ({'sha256': '0' * 64}, f'its sha256 is {SUM} instead of 0000'),
        ({'size': 5}, f'{len(CONTENT)} bytes instead of 5'),
    ],
)
def test_wrong_sum_or_size_leaves_nothing(server: Server, tmp_path: Path, expected: dict, message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        download(server.url, tmp_path / 'file.pth', **expected)
    assert list(tmp_path.iterdir()) == []


def test_broken_connection_is_resumed_in_the_same_call(server: Server, tmp_path: Path) -> None:
    server.cut = [1000, 2000]
    download(server.url, tmp_path / 'file.pth', sha256=SUM)
    assert server.seen == [None, 'bytes=1000-', 'bytes=3000-']


def test_part_of_an_earlier_call_is_resumed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / 'file.pth'
    server.cut = [1000, 1000, 1000]
    with pytest.raises(DownloadError, match=rf'ended after 3000 of {len(CONTENT)} bytes'):
        download(server.url, target, sha256=SUM)
    assert not target.exists()
    assert (tmp_path / 'file.pth.part').stat().st_size == 3000
    server.seen.clear()
    download(server.url, target, sha256=SUM)
    assert server.seen == ['bytes=3000-']
    assert target.read_bytes() == CONTENT


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut = [1000]
    download(server.url, tmp_path / 'file.pth')  # no sum: the bytes themselves must be right
    assert server.seen == [None, 'bytes=1000-']
    assert (tmp_path / 'file.pth').read_bytes() == CONTENT


def test_part_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'file.pth.part').write_bytes(CONTENT + b'more')
    download(server.url, tmp_path / 'file.pth', sha256=SUM)
    assert server.seen == [f'bytes={len(CONTENT) + 4}-', None]
    assert (tmp_path / 'file.pth').read_bytes() == CONTENT


def test_missing_file_names_the_address_the_target_and_the_remedy(server: Server, tmp_path: Path) -> None:
    target = tmp_path / 'file.pth'
    with pytest.raises(DownloadError) as error:
        download(server.missing, target)
    message = str(error.value)
    assert '404' in message
    assert f'fetch the file from {server.missing} by other means and save it as {target}' in message
    assert list(tmp_path.iterdir()) == []
    assert len(server.seen) == 1


def test_failed_download_keeps_and_names_a_file_that_does_not_verify(server: Server, tmp_path: Path) -> None:
    target = tmp_path / 'file.pth'
    target.write_bytes(b'old')
    with pytest.raises(DownloadError, match=f'the file that is there: its sha256 is .* instead of {SUM}'):
        download(server.missing, target, sha256=SUM)
    assert target.read_bytes() == b'old'


def test_mirrors_are_tried_in_turn(server: Server, tmp_path: Path) -> None:
    download(server.missing, tmp_path / 'file.pth', sha256=SUM, mirrors=[server.url])
    assert (tmp_path / 'file.pth').read_bytes() == CONTENT


def test_unreachable_host_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with pytest.raises(DownloadError, match=r'http://127\.0\.0\.1:9/x: .*refused'):
        download('http://127.0.0.1:9/x', tmp_path / 'file.pth')


# ---- the manifest and the script


@pytest.fixture
def script():
    """The module of scripts/download_pretrained_models.py."""
    spec = importlib.util.spec_from_file_location('download_models', ROOT / 'scripts' / 'download_pretrained_models.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_manifest(path: Path, **groups: list[dict]) -> Path:
    common = {'licence': 'MIT', 'used_by': 'a test'}
    path.write_text(yaml.safe_dump({name: [common | item for item in items] for name, items in groups.items()}))
    return path


def test_manifest_is_complete() -> None:
    manifest = read_manifest(ROOT / 'weights' / 'manifest.yml')
    assert {'CodeFormer', 'facelib', 'realesrgan', 'vgg', 'yunet', 'arcface'} <= set(manifest)
    entries = [entry for group in manifest.values() for entry in group]
    assert len({entry.file for entry in entries}) == len(entries)
    readme = (ROOT / 'weights' / 'README.md').read_text(encoding='utf-8')
    for entry in entries:
        assert all(url.startswith('https://') for url in (entry.url, *entry.mirrors))
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert not Path(entry.file).is_absolute()
        assert '..' not in Path(entry.file).parts
        assert f'`{entry.file}`' in readme, f'weights/README.md states no licence of {entry.file}'


def test_manifest_mistakes_are_named(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / 'm.yml', g=[{'file': 'a', 'url': 'b', 'sha255': 'c'}])
    with pytest.raises(ValueError, match=r"m\.yml: g: unknown key 'sha255' \(did you mean 'sha256'"):
        read_manifest(path)
    path = write_manifest(tmp_path / 'm.yml', g=[{'file': 'a'}])
    with pytest.raises(ValueError, match=r'm\.yml: g: an entry without url'):
        read_manifest(path)


def test_script_goes_on_after_a_failure(server: Server, script, tmp_path: Path, capsys) -> None:
    manifest = write_manifest(
        tmp_path / 'm.yml',
        one=[{'file': 'one/bad.pth', 'url': server.missing}, {'file': 'one/good.pth', 'url': server.url}],
        two=[{'file': 'two.pth', 'url': server.url, 'sha256': SUM}],
    )
    weights = tmp_path / 'weights'
    options = ['--weights-dir', str(weights), '--manifest', str(manifest)]
    assert script.main(['one', *options]) == 1
    assert (weights / 'one' / 'good.pth').read_bytes() == CONTENT
    assert not (weights / 'two.pth').exists()
    output = capsys.readouterr()
    assert server.missing in output.err
    assert f'good.pth: downloaded, not pinned in the manifest, sha256 {SUM}' in output.out
    assert script.main(['two', *options]) == 0
    requests = len(server.seen)
    assert script.main(['two', *options]) == 0
    assert len(server.seen) == requests
    assert 'two.pth: already there, verified' in capsys.readouterr().out


def test_script_names_the_nearest_group(script, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(['codeformer'])
    assert stop.value.code == 2
    assert "unknown group 'codeformer' (did you mean 'CodeFormer'?)" in capsys.readouterr().err
