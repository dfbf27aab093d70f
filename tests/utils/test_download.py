"""Downloads against a server on this machine: complete and verified, or not there."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from small_faces import save_tiny_model

from basicsr.cli import download as download_command
from basicsr.faces.detection import build_detector
from basicsr.inference import FaceRestorer
from basicsr.inference.face_restorer import find_model
from basicsr.utils.download import DownloadError, _Redirects, download, sha256_of
from basicsr.utils.folders import weights_folder
from basicsr.utils.weights import read_manifest

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 400
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A loopback server of `CONTENT` under every path but `/missing`, with faults to order.

    Attributes:
        ranges: whether Range requests are honoured.
        cut: bytes after which each of the next answers breaks off; answers after that are whole.
        seen: the Range header of every request, None where there was none.
        paths: the path of every request; the whole address where this server was asked as a proxy.
        stalls: how many of the next answers stop after 1,000 bytes, until the end of the test.
        shifted: bytes by which continued answers begin too early.
        content: what is served.
        sized: whether answers state their length.
        held: requests wait for this event before they are answered.
    """

    def __init__(self) -> None:
        self.ranges = True
        self.cut: list[int] = []
        self.seen: list[str | None] = []
        self.paths: list[str] = []
        self.stalls = 0
        self.shifted = 0
        self.content, self.sized = CONTENT, True
        self.held = threading.Event()
        self.held.set()
        self.asked, self.over = threading.Event(), threading.Event()
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
        self.paths.append(request.path)
        self.asked.set()
        self.held.wait(30)
        if request.path == '/missing':
            request.send_error(404)
            return
        start = int(asked.removeprefix('bytes=').rstrip('-')) if asked and self.ranges else 0
        if request.path == '/moved':
            request.send_response(302)
            request.send_header('Location', 'ftp://127.0.0.1/file.pth')
            request.end_headers()
            return
        if start >= len(self.content):
            request.send_error(416)
            return
        if asked:
            start -= self.shifted
        body = self.content[start:]
        request.send_response(206 if asked and self.ranges else 200)
        if self.sized:
            request.send_header('Content-Length', str(len(body)))
        if asked and self.ranges:
            request.send_header('Content-Range', f'bytes {start}-{len(self.content) - 1}/{len(self.content)}')
        request.end_headers()
        if self.stalls:
            self.stalls -= 1
            request.wfile.write(body[:1000])
            self.over.wait(30)
            return
        with suppress(ConnectionError):  # of a process that was killed
            request.wfile.write(body[: self.cut.pop(0)] if self.cut else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.over.set()
    server.held.set()
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


def test_an_unwritable_place_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(DownloadError, match=r'file/x\.pth: could not be downloaded\n.*cannot be written'):
        download(server.url, tmp_path / 'file' / 'x.pth')


@pytest.mark.parametrize('url', ['file:///etc/hostname', 'ftp://host/file', 'nonsense', ''])
def test_only_the_web_is_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match='not an http or https address'):
        download(url, tmp_path / 'file.pth')
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stalls_is_given_up_and_asked_for_the_rest(server: Server, tmp_path: Path) -> None:
    server.stalls = 2
    download(server.url, tmp_path / 'file.pth', sha256=SUM, timeout=0.2)
    assert server.seen == [None, 'bytes=1000-', 'bytes=2000-']
    assert (tmp_path / 'file.pth').read_bytes() == CONTENT


def test_an_answer_that_begins_elsewhere_is_not_appended(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'file.pth.part').write_bytes(CONTENT[:1000])
    server.shifted = 10
    with pytest.raises(DownloadError, match=r"bytes from 1000 on, the server sent 'bytes 990-"):
        download(server.url, tmp_path / 'file.pth', sha256=SUM)
    assert (tmp_path / 'file.pth.part').read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    ('page', 'words'),
    [
        (b'<!DOCTYPE html><title>Sign in to this network</title>', 'a web page, not the file'),
        (b'\n <html>', 'a web page'),
        (b'{"error": "quota"}', 'a JSON text'),
        (b'version https://git-lfs.github.com/spec/v1\nsize 5\n', 'a Git LFS pointer'),
    ],
)
def test_a_page_in_place_of_the_file_is_named_and_costs_nothing(
    page: bytes, words: str, server: Server, tmp_path: Path
) -> None:
    server.content = page
    with pytest.raises(DownloadError, match=words):
        download(server.url, tmp_path / 'file.pth')
    assert list(tmp_path.iterdir()) == []
    assert len(server.seen) == 1


def test_the_announced_size_is_compared_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + b'more'
    with pytest.raises(DownloadError, match=f'{len(CONTENT) + 4} bytes instead of {len(CONTENT)}'):
        download(server.url, tmp_path / 'file.pth', SUM, len(CONTENT))
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_an_end_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content, server.sized = CONTENT * 40, False
    with pytest.raises(DownloadError, match=f'more than {len(CONTENT)} bytes'):
        download(server.url, tmp_path / 'file.pth', size=len(CONTENT))
    monkeypatch.setattr('basicsr.utils.download.LARGEST', 1000)
    with pytest.raises(DownloadError, match='more than 1000 bytes'):
        download(server.url, tmp_path / 'file.pth')
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_comes_too_slowly_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('basicsr.utils.download.PATIENCE', 0)
    monkeypatch.setattr('basicsr.utils.download.SLOWEST', 1e15)
    with pytest.raises(DownloadError, match='too slow'):
        download(server.url, tmp_path / 'file.pth', SUM)
    monkeypatch.undo()
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    assert download(server.url, tmp_path / 'file.pth', SUM).read_bytes() == CONTENT


def test_the_web_may_not_lead_elsewhere(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match='redirected to ftp:'):
        download(server.url.replace('file.pth', 'moved'), tmp_path / 'file.pth')


def test_https_is_not_left_for_http() -> None:
    request = urllib.request.Request('https://host/file')
    follow = _Redirects().redirect_request
    assert follow(request, None, 302, '', {}, 'https://other/file').full_url == 'https://other/file'
    with pytest.raises(urllib.error.URLError, match='no https address'):
        follow(request, None, 302, '', {}, 'http://other/file')


def test_a_part_is_gone_on_with_only_where_a_sum_shows_what_it_is_of(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'file.pth.part').write_bytes(b'poison' * 100)
    download(server.url, tmp_path / 'file.pth')
    assert server.seen == [None]
    assert (tmp_path / 'file.pth').read_bytes() == CONTENT


def test_a_mirror_continues_a_file_only_where_its_sum_is_known(server: Server, tmp_path: Path) -> None:
    for sha256, wanted in ((SUM, 'bytes=1000-'), (None, None)):
        (tmp_path / 'other.pth.part').write_bytes(CONTENT[:1000])
        server.seen.clear()
        download(server.missing, tmp_path / 'other.pth', sha256=sha256, mirrors=[server.url])
        assert server.seen == [wanted, wanted]
        (tmp_path / 'other.pth').unlink()


def test_the_proxy_of_the_environment_is_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('no_proxy', 'NO_PROXY', 'HTTP_PROXY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('http_proxy', server.url.removesuffix('/file.pth'))
    download('http://files.invalid/weights.pth', tmp_path / 'file.pth', sha256=SUM)
    assert server.paths == ['http://files.invalid/weights.pth']


def fetch_in_a_process(url: str, target: Path, sha256: str | None, errors: int) -> subprocess.Popen[bytes]:
    """Another process that downloads; what it says goes to the file number `errors`."""
    code = 'import sys; from basicsr.utils.download import download; download(sys.argv[1], sys.argv[2], *sys.argv[3:])'
    arguments = [url, str(target), *([sha256] if sha256 else [])]
    return subprocess.Popen([sys.executable, '-c', code, *arguments], cwd=ROOT, stderr=errors)


@pytest.mark.parametrize('sha256', [SUM, None])
def test_two_processes_fetch_one_file_once(server: Server, tmp_path: Path, sha256: str | None) -> None:
    pytest.importorskip('fcntl')
    server.held.clear()
    server.cut = [1000, 500]
    target = tmp_path / 'a' / 'file.pth'
    source, sink = os.pipe()
    processes = [fetch_in_a_process(server.url, target, sha256, sink) for _ in range(2)]
    os.close(sink)
    with os.fdopen(source) as said:
        assert 'file.pth.part: another process is fetching it; waiting' in said.readline()
        assert server.asked.wait(60)  # the other is in the middle of it
        server.held.set()
        assert said.read() == ''
    assert [process.wait(60) for process in processes] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert server.seen == [None, 'bytes=1000-', 'bytes=1500-']
    assert [path.name for path in target.parent.iterdir()] == ['file.pth']


def test_the_lock_of_a_process_that_was_killed_is_free(server: Server, tmp_path: Path) -> None:
    target = tmp_path / 'file.pth'
    server.held.clear()
    process = fetch_in_a_process(server.url, target, SUM, subprocess.DEVNULL)
    assert server.asked.wait(60)
    process.kill()
    process.wait(60)
    server.held.set()
    assert (tmp_path / 'file.pth.part').exists()
    download(server.url, target, sha256=SUM)
    assert target.read_bytes() == CONTENT


# ---- the manifest and the script


@pytest.fixture
def script():
    """The command that downloads weights."""
    return download_command


def write_manifest(path: Path, **groups: list[dict]) -> Path:
    common = {'licence': 'MIT', 'used_by': 'a test'}
    path.write_text(yaml.safe_dump({name: [common | item for item in items] for name, items in groups.items()}))
    return path


def test_manifest_is_complete() -> None:
    manifest = read_manifest(ROOT / 'weights' / 'manifest.yml')
    assert {'CodeFormer', 'facelib', 'realesrgan', 'vgg', 'yunet', 'arcface'} <= set(manifest)
    entries = [entry for group in manifest.values() for entry in group]
    assert len({entry.file for entry in entries}) == len(entries)
    assert sum(entry.sha256 is not None for entry in entries) >= 13
    for entry in entries:  # a digit of the name that torchvision and pytorch-fid give to files
        named = re.search(r'-([0-9a-f]{8})\.pth$', entry.file)
        assert not named or entry.sha256.startswith(named[1])
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


@pytest.mark.parametrize(
    'name',
    [
        '../outside.pth',
        'a/../../outside.pth',
        '/etc/outside',
        'a\\..\\..\\outside',
        'C:/outside',
        '\\\\host\\x',
        'a\0b',
    ],
)
def test_a_manifest_cannot_write_outside_the_folder(name: str, server: Server, script, tmp_path: Path, capsys) -> None:
    manifest = write_manifest(tmp_path / 'm.yml', g=[{'file': name, 'url': server.url}])
    with pytest.raises(ValueError, match='must be a path below the weights folder'):
        read_manifest(manifest)
    assert script.main(['all', '--weights-dir', str(tmp_path / 'w'), '--manifest', str(manifest)]) == 2
    assert 'm.yml: g: ' in capsys.readouterr().err
    assert server.seen == [] and not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('just words', 'mapping of groups'),
        ('g: {a: b}', 'mapping of groups'),
        ('g: [3]', 'mapping of keys'),
        ('g: [unclosed', 'not valid YAML'),
        ('g: [{file: a, url: file:///etc/hostname, licence: x, used_by: y}]', 'not an http or https address'),
        ('g: [{file: a, url: http://x, mirrors: [ftp://y], licence: x, used_by: y}]', 'ftp://y is not an http'),
        ('g: [{file: a, url: http://x, sha256: 123, licence: x, used_by: y}]', 'put sums in quotes'),
        ('g: [{file: a, url: http://x, size: big, licence: x, used_by: y}]', 'size is a number'),
    ],
)
def test_what_is_no_manifest_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'm.yml').write_text(text)
    with pytest.raises(ValueError, match=rf'm\.yml.*{message}'):
        read_manifest(tmp_path / 'm.yml')


def test_sizes_of_the_manifest_are_checked(server: Server, script, tmp_path: Path, capsys) -> None:
    for size, code in ((5, 1), (len(CONTENT), 0)):
        manifest = write_manifest(tmp_path / 'm.yml', g=[{'file': 'x.pth', 'url': server.url, 'size': size}])
        assert script.main(['all', '--weights_dir', str(tmp_path / 'w'), '--manifest', str(manifest)]) == code
    assert f'{len(CONTENT)} bytes instead of 5' in capsys.readouterr().err


def test_mirrors_of_the_user_come_first(server: Server, script, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / 'm.yml', g=[{'file': 'a b/x.pth', 'url': server.missing, 'sha256': SUM}])
    mirror = server.url.removesuffix('/file.pth') + '/copy/'
    options = ['all', '--weights_dir', str(tmp_path / 'w'), '--manifest', str(manifest)]
    assert script.main([*options, '--mirror', mirror]) == 0
    assert server.paths == ['/copy/a%20b/x.pth']
    assert (tmp_path / 'w' / 'a b' / 'x.pth').read_bytes() == CONTENT


def test_without_a_network_the_script_says_which_file_goes_where(script, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    url = 'http://127.0.0.1:9/x.pth'
    manifest = write_manifest(tmp_path / 'm.yml', g=[{'file': 'a/x.pth', 'url': url}])
    assert script.main(['all', '--weights_dir', str(tmp_path / 'w'), '--manifest', str(manifest)]) == 1
    message = capsys.readouterr().err
    assert f'fetch the file from {url} by other means and save it as {tmp_path / "w" / "a" / "x.pth"}' in message


def test_the_environment_names_the_weights_folder(server: Server, script, tmp_path: Path, monkeypatch) -> None:
    manifest = write_manifest(tmp_path / 'm.yml', g=[{'file': 'x.pth', 'url': server.url}])
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'of the environment'))
    assert script.main(['g', '--manifest', str(manifest)]) == 0
    assert script.main(['g', '--manifest', str(manifest), '--weights_dir', str(tmp_path / 'of the flag')]) == 0
    assert {path.parent.name for path in tmp_path.rglob('x.pth')} == {'of the environment', 'of the flag'}


def test_everything_looks_for_weights_where_the_environment_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'w'))
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/w/facelib/detection_Resnet50'):
        build_detector('retinaface_resnet50')
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/w/CodeFormer/codeformer.pth'):
        FaceRestorer('official', device='cpu')
    assert find_model('small', weights_folder())[0] == ROOT / 'weights' / 'small' / 'codeformer_128.safetensors'
    save_tiny_model(tmp_path / 'w' / 'CodeFormer' / 'codeformer.pth')
    assert FaceRestorer(device='cpu').description.startswith('official')
    monkeypatch.delenv('CODEFORMER_WEIGHTS')
    assert weights_folder() == ROOT / 'weights'


def test_script_goes_on_after_a_failure(server: Server, script, tmp_path: Path, capsys) -> None:
    manifest = write_manifest(
        tmp_path / 'm.yml',
        one=[{'file': 'one/bad.pth', 'url': server.missing}, {'file': 'one/good.pth', 'url': server.url}],
        two=[{'file': 'two.pth', 'url': server.url, 'sha256': SUM}],
    )
    weights = tmp_path / 'weights'
    options = ['--weights_dir', str(weights), '--manifest', str(manifest)]
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


def test_without_a_group_the_groups_are_listed_and_nothing_is_fetched(
    server: Server, script, tmp_path: Path, capsys
) -> None:
    files = [{'file': 'a/x.pth', 'url': server.url, 'size': len(CONTENT)}, {'file': 'a/y.pth', 'url': server.url}]
    manifest = write_manifest(tmp_path / 'm.yml', one=files)
    assert script.main(['--weights_dir', str(tmp_path / 'w'), '--manifest', str(manifest)]) == 0
    said = capsys.readouterr().out
    assert 'one\n  a/x.pth (0.1 MB): a test; licence: MIT\n  a/y.pth (size unknown)' in said
    assert server.seen == [] and not (tmp_path / 'w').exists()
