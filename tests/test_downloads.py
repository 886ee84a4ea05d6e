"""Downloads against a server on this computer that misbehaves in every way we could think of."""
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from retigan.datasets import SOURCES, Archive, DatasetError, check_archive, download_dataset, open_dataset
from test_datasets import write_chase, write_drive, write_hrf, write_stare


def zip_of(folder, top=''):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as z:
        for f in sorted(folder.rglob('*')):
            if f.is_file(): z.write(f, Path(top)/f.relative_to(folder))
    return data.getvalue()


def tar_of(folder):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as t:
        for f in sorted(folder.iterdir()): t.add(f, f.name)
    return data.getvalue()


class Server:
    "Serves `files` {name: bytes}; `script` is a list of moods, one a request, the last one repeated."
    def __init__(self, files, script=('good',)):
        self.files, self.script, self.asked = files, list(script), []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10
            def log_message(self, *args): pass
            def do_GET(self):
                mood = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                outer.asked.append((mood, self.path))
                body = outer.files.get(self.path[1:])
                if body is None: mood = 404
                if isinstance(mood, int): self.send_error(mood); return
                if mood == 'wrong': body = b'x'*len(body)
                if mood == 'page': body = b'<html>prove that you are human</html>'
                self.send_response(200)
                if mood != 'short without length': self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body[:len(body)//2] if mood in ('cut', 'short without length') else body)
                self.close_connection = True

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.http.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.http.server_port}'

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs=dict(poll_interval=.02), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.http.shutdown(); self.http.server_close(); self.thread.join(5)


def source(name, *archives): return (replace(next(s for s in SOURCES if s.name == name), archives=archives),)
def sha(data): return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope='module')
def hrf(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hrf')
    write_hrf(folder)
    return zip_of(folder)


def fetch(server, into, name='HRF', sources=None, **kwargs):
    return download_dataset(name, into, server.url, sources=sources, progress=False, wait=0, **kwargs)


def test_good_download_opens(hrf, tmp_path):
    with Server({'all.zip': hrf}) as s: where = fetch(s, tmp_path/'data', sources=source('HRF', Archive('https://x.org/all.zip', sha(hrf))))
    assert where == tmp_path/'data'/'HRF' and len(open_dataset(where, verify=True)) == 12
    assert [f.name for f in (tmp_path/'data').iterdir()] == ['HRF']          # no archive, no part, no lock


@pytest.mark.parametrize('mood, says, asked', [
    ('cut', 'the connection broke', 3), ('wrong', 'SHA-256 differs', 3), ('short without length', 'SHA-256 differs', 3),
    (500, 'answered 500', 3), (503, 'answered 503', 3), (404, 'answered 404', 1), (403, 'answered 403', 1), (410, 'answered 410', 1)])
def test_bad_server_leaves_nothing(hrf, tmp_path, mood, says, asked):
    with Server({'all.zip': hrf}, [mood]) as s:
        with pytest.raises(DatasetError, match=says) as e: fetch(s, tmp_path, sources=source('HRF', Archive('https://x.org/all.zip', sha(hrf))), retries=2)
        assert len(s.asked) == asked and 'nothing was kept' in str(e.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('moods', [['cut', 'good'], ['wrong', 503, 'cut', 'good']])
def test_a_passing_failure_is_tried_again_from_the_start(hrf, tmp_path, moods):
    with Server({'all.zip': hrf}, moods) as s:
        where = fetch(s, tmp_path, sources=source('HRF', Archive('https://x.org/all.zip', sha(hrf))))
        assert [m for m, _ in s.asked] == moods
    assert len(open_dataset(where)) == 12


def test_nobody_listens(tmp_path):
    with pytest.raises(DatasetError, match='the connection broke'):
        download_dataset('HRF', tmp_path, 'http://127.0.0.1:9', retries=1, wait=0, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['../escaped.txt', '/tmp/retigan-escaped.txt', 'images/../../escaped.txt', '..\\escaped.txt', 'C:\\escaped.txt'])
def test_escaping_zip_is_refused_whole(hrf, tmp_path, name):
    data = io.BytesIO(hrf)
    with zipfile.ZipFile(data, 'a') as z: z.writestr(zipfile.ZipInfo(name), 'out')
    with Server({'all.zip': data.getvalue()}) as s:
        with pytest.raises(DatasetError, match='outside the folder'):
            fetch(s, tmp_path/'data', sources=source('HRF', Archive('https://x.org/all.zip', sha(data.getvalue()))))
    assert list((tmp_path/'data').iterdir()) == [] and [f.name for f in tmp_path.iterdir()] == ['data']
    assert not Path('/tmp/retigan-escaped.txt').exists()


@pytest.mark.parametrize('kind, target', [(tarfile.SYMTYPE, '/etc'), (tarfile.LNKTYPE, '../x'), (tarfile.CHRTYPE, '')])
def test_links_and_devices_in_tars_are_refused(tmp_path, kind, target):
    path = tmp_path/'a.tar'
    with tarfile.open(path, 'w') as t:
        m = tarfile.TarInfo('images'); m.type, m.linkname = kind, target
        t.addfile(m)
    with pytest.raises(DatasetError, match='link or a device'): check_archive(path)


def test_three_tars_make_stare(tmp_path):
    write_stare(tmp_path/'src')
    folders = ('stare-images', 'labels-ah', 'labels-vk')
    files = {f'{f}.tar': tar_of(tmp_path/'src'/f) for f in folders}
    archives = [Archive(f'https://x.org/{f}.tar', sha(files[f'{f}.tar']), f) for f in folders]
    with Server(files) as s: where = fetch(s, tmp_path/'data', 'STARE', source('STARE', *archives))
    assert len(open_dataset(where, annotator=2, verify=True)) == 10
    files['labels-vk.tar'] = b'gone wrong'                                   # the last of three fails: none is kept
    with Server(files) as s, pytest.raises(DatasetError, match='SHA-256'): fetch(s, tmp_path/'other', 'STARE', source('STARE', *archives), retries=0)
    assert list((tmp_path/'other').iterdir()) == []


def test_single_folder_at_the_top_is_taken_off(tmp_path):
    write_chase(tmp_path/'src')
    data = zip_of(tmp_path/'src', 'CHASEDB1')
    with Server({'c.zip': data}) as s: where = fetch(s, tmp_path/'data', 'CHASE_DB1', source('CHASE_DB1', Archive('https://x.org/c.zip', sha(data))))
    assert len(open_dataset(where)) == 14


def test_unknown_hash_needs_consent_and_is_pinned(tmp_path):
    write_chase(tmp_path/'src')
    data, archives = zip_of(tmp_path/'src'), source('CHASE_DB1', Archive('https://x.org/c.zip'))
    root = tmp_path/'data'
    with Server({'c.zip': data}) as s:
        with pytest.raises(DatasetError, match='allow_unverified=True'): fetch(s, root, 'CHASE_DB1', archives)
        assert not s.asked                                                   # nothing was even asked for
        where = fetch(s, root, 'CHASE_DB1', archives, allow_unverified=True)
    assert sha(data) in (root/'downloads.lock.json').read_text()
    where.rename(tmp_path/'moved')
    with Server({'c.zip': zip_of(tmp_path/'src', 'other')}) as s:           # changed behind the same address
        with pytest.raises(DatasetError, match='SHA-256 differs'): fetch(s, root, 'CHASE_DB1', archives, allow_unverified=True, retries=0)
    with Server({'c.zip': data}) as s: assert fetch(s, root, 'CHASE_DB1', archives) == where


@pytest.mark.parametrize('mood', ['page', 'wrong', 'short without length'])
def test_rubbish_is_not_pinned(tmp_path, mood):
    write_chase(tmp_path/'src')
    with Server({'c.zip': zip_of(tmp_path/'src')}, [mood]) as s:
        with pytest.raises(DatasetError, match='no zip or tar archive|damaged'):
            fetch(s, tmp_path/'data', 'CHASE_DB1', source('CHASE_DB1', Archive('https://x.org/c.zip')), allow_unverified=True)
    assert list((tmp_path/'data').iterdir()) == []


def test_damaged_lock_file(tmp_path):
    (tmp_path/'downloads.lock.json').write_text('{')
    with pytest.raises(DatasetError, match='damaged'): download_dataset('CHASE_DB1', tmp_path, allow_unverified=True)


def test_archive_of_another_dataset(tmp_path, hrf):
    write_drive(tmp_path/'src')
    data = zip_of(tmp_path/'src')
    with Server({'all.zip': data}) as s, pytest.raises(DatasetError, match='layout of DRIVE'):
        fetch(s, tmp_path/'data', sources=source('HRF', Archive('https://x.org/all.zip', sha(data))))
    assert list((tmp_path/'data').iterdir()) == []


def test_what_is_there_is_left_alone(tmp_path, hrf):
    archives = source('HRF', Archive('https://x.org/all.zip', sha(hrf)))
    with Server({'all.zip': hrf}) as s:
        where = fetch(s, tmp_path, sources=archives)
        assert fetch(s, tmp_path, sources=archives) == where and len(s.asked) == 1
        for f in (where/'images').iterdir(): f.unlink()
        with pytest.raises(DatasetError, match='is no HRF dataset: move it away'): fetch(s, tmp_path, sources=archives)
    assert (where/'mask').is_dir()


def test_rar_is_kept_with_instructions(tmp_path):
    data = b'Rar!\x1a\x07\x01\x00 not really'
    with Server({'FIVES.rar': data}) as s:
        with pytest.raises(DatasetError, match='unar, unrar or bsdtar'): fetch(s, tmp_path, 'FIVES', source('FIVES', Archive('https://x.org/1', sha(data), name='FIVES.rar')))
    assert (tmp_path/'FIVES.rar').read_bytes() == data


def test_registration_and_unknown_names(tmp_path):
    with pytest.raises(DatasetError, match='needs registration') as e: download_dataset('DRIVE', tmp_path)
    assert 'drive.grand-challenge.org' in str(e.value) and '1st_manual' in str(e.value)
    with pytest.raises(DatasetError, match='expected one of DRIVE, STARE'): download_dataset('Messidor', tmp_path)


def test_root_is_a_file(tmp_path, hrf):
    (tmp_path/'f').write_text('x')
    with Server({'all.zip': hrf}) as s, pytest.raises(DatasetError, match='expected a folder'):
        fetch(s, tmp_path/'f', sources=source('HRF', Archive('https://x.org/all.zip', sha(hrf))))


@pytest.mark.skipif(sys.platform == 'win32', reason='RLIMIT_FSIZE is POSIX')
def test_disk_full(tmp_path, hrf):
    "A limit on file size stands in for a full disk: the write fails half way."
    code = ('import resource, signal, sys; from retigan.datasets import *; from dataclasses import replace\n'
            'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n'
            's = (replace(SOURCES[3], archives=(Archive("https://x.org/all.zip", sys.argv[3]),)),)\n'
            'try: download_dataset("HRF", sys.argv[1], sys.argv[2], sources=s, progress=False)\n'
            'except DatasetError as e: print("SAID", e)')
    with Server({'all.zip': hrf}) as s:
        out = subprocess.run([sys.executable, '-c', code, tmp_path/'d', s.url, sha(hrf)], capture_output=True, text=True, timeout=120)
    assert 'SAID' in out.stdout and 'room and write access' in out.stdout, out.stdout + out.stderr
    assert list((tmp_path/'d').iterdir()) == []


def test_progress_bar_is_shown(tmp_path, hrf, capfd, monkeypatch):
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    with Server({'all.zip': hrf}) as s:
        download_dataset('HRF', tmp_path, s.url, sources=source('HRF', Archive('https://x.org/all.zip', sha(hrf))), progress=True)
    assert '100%' in capfd.readouterr().err


def test_registry_is_complete():
    for s in SOURCES:
        assert s.licence and s.home.startswith('https://') and 'doi' in s.citation
        for a in s.archives: assert a.url.startswith('https://') and (a.sha256 is None or len(a.sha256) == 64)
