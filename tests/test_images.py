"""What the notebook 00_images can't show: fresh processes, killed processes, and the real photographs as a test of their own."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from retigan.images import ImageFileError, find_fov, read_image, read_mask

DATA = os.environ.get('RETIGAN_DATA')
DRIVE = Path(DATA) / 'DRIVE' if DATA else None
PHOTOS = sorted(DRIVE.glob('*/images/*.tif')) if DRIVE else []


def python(code, *args, **kwargs):
    "Run `code` in a fresh interpreter and return what it printed."
    done = subprocess.run([sys.executable, *args, '-c', code], capture_output=True, text=True, timeout=120, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    out = python('import sys, retigan.images; print([m for m in ("matplotlib", "cv2", "ipywidgets", "torchvision", "IPython") if m in sys.modules])')
    assert out == '[]'


def test_reading_8_bits_needs_no_opencv(tmp_path):
    code = ('import sys, torch; sys.modules["cv2"] = None\n'
            'from retigan.images import *\n'
            'x = torch.rand(3, 20, 30) * 2 - 1\n'
            'save_image(x, "a.png"); save_mask(x[:1] > 0, "m.png")\n'
            'print(tuple(read_image("a.png").shape), tuple(read_mask("m.png").shape))')
    assert python(code, cwd=tmp_path) == '(3, 20, 30) (1, 20, 30)'


def test_missing_opencv_is_named(tmp_path):
    cv2 = pytest.importorskip('cv2')
    cv2.imwrite(str(tmp_path / 'deep.png'), torch.randint(0, 60000, (8, 8, 3)).numpy().astype('uint16'))
    code = ('import sys; sys.modules["cv2"] = None\n'
            'from retigan.images import read_image\n'
            'try: read_image("deep.png")\n'
            'except ImportError as e: print(e)')
    assert 'pip install opencv-python' in python(code, cwd=tmp_path)


def test_bomb_is_refused_before_decoding(tmp_path):
    "121 million pixels, 363 MB decoded, in a valid png of 350 kB: refused without the memory."
    pytest.importorskip('resource')
    import struct
    import zlib
    side = 11_000
    packer = zlib.compressobj(9)
    rows = b''.join(packer.compress(bytes(side * 3 + 1)) for _ in range(side)) + packer.flush()
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    (tmp_path / 'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
                                        + chunk(b'IDAT', rows) + chunk(b'IEND', b''))
    code = ('import resource, time\n'
            'from retigan.images import *\n'
            'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
            'start = time.perf_counter()\n'
            'for f in (read_image, read_mask):\n'
            '    try: f("bomb.png")\n'
            '    except ImageFileError as e: print("bomb.png" in str(e))\n'
            'print(time.perf_counter() - start < 2, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000)')
    assert python(code, '-W', 'error', cwd=tmp_path) == 'True\nTrue\nTrue True'


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='needs a system with SIGKILL')
def test_killed_while_writing(tmp_path):
    "A process that is killed at any moment leaves a whole picture under the name, the old one or the new one."
    code = ('import torch; from retigan.images import save_image\n'
            'x = torch.rand(3, 400, 400) * 2 - 1\n'
            'save_image(x, "a.png"); print("ready", flush=True)\n'
            'while True: save_image(x, "a.png")')
    for wait in (0.01, 0.07, 0.2):
        process = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stdout=subprocess.PIPE)
        assert process.stdout.readline().strip() == b'ready'
        time.sleep(wait)
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()
        assert read_image(tmp_path / 'a.png').shape == (3, 400, 400)


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='the superuser may write anywhere')
def test_folder_without_write_access(tmp_path):
    from retigan.images import save_image
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ImageFileError, match='a.png'): save_image(torch.zeros(3, 8, 8), tmp_path / 'a.png')
    finally: tmp_path.chmod(0o700)


def test_written_files_obey_the_umask(tmp_path):
    from retigan.images import save_image
    reference = tmp_path / 'reference'
    reference.write_bytes(b'')
    assert save_image(torch.zeros(3, 8, 8), tmp_path / 'a.png').stat().st_mode == reference.stat().st_mode


@pytest.mark.skipif(not PHOTOS, reason='RETIGAN_DATA is not set or holds no DRIVE: the real photographs are not here')
@pytest.mark.parametrize('photo', PHOTOS, ids=lambda p: p.stem)
def test_fov_on_drive(photo):
    true = read_mask(photo.parent.parent / 'mask' / f'{photo.stem}_mask.gif')
    found = find_fov(read_image(photo))
    assert 2 * (true * found).sum() / (true.sum() + found.sum()) >= 0.98
