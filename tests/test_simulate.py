"""What the chapter on simulated eyes can't show: other processes, other processors, and killed runs."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

DIGEST = '''
import hashlib
from retigan.simulate import simulate_eye
fields = 'image vessels fov disc arteries veins'.split()
for size, seed in ((64, 0), (256, 3), (300, 9)):
    eye = simulate_eye(size, seed)
    print(hashlib.sha256(b''.join(getattr(eye, f).numpy().tobytes() for f in fields)).hexdigest())
'''
# Every vector extension that the libraries choose at run time, by the names that their versions use.
NO_VECTORS = {
    'NPY_DISABLE_CPU_FEATURES': 'X86_V3 X86_V4 AVX512_ICL AVX512_SPR',
    'OPENCV_CPU_DISABLE': 'AVX512-SKX,AVX2,FMA3,AVX,FP16,SSE4.2,SSE4.1',
    'OMP_NUM_THREADS': '1',
}


def digests(**environment):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', DIGEST], capture_output=True, text=True,
                          env={**os.environ, **environment}, check=True)
    return done.stdout.split()


def test_same_bytes_without_vector_instructions():
    "Another processor, imitated: the libraries fall back to their plain code and nothing changes."
    assert digests() == digests(**NO_VECTORS)


def files(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob('*') if p.is_file()}


def test_workers_write_the_same_files(tmp_path):
    from retigan.simulate import write_eyes
    for workers in (0, 1, 2): write_eyes(tmp_path/str(workers), n=5, size=64, seed=7, workers=workers)
    alone = files(tmp_path/'0')
    assert len(alone) == 5*5+1
    assert files(tmp_path/'1') == alone
    assert files(tmp_path/'2') == alone


def start(out):
    "A run that lasts, caught once its first eyes are on the disk aside."
    code = ('import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'      # a shell's background job ignores Ctrl-C
            f'from retigan.simulate import write_eyes; write_eyes({str(out)!r}, n=2000, size=64)')
    run = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE)
    deadline = time.monotonic()+60
    while len(list(out.parent.glob('.*/images/*.png'))) < 3:
        assert run.poll() is None and time.monotonic() < deadline, 'the run wrote nothing'
        time.sleep(.05)
    return run


def test_killed_run_leaves_no_data(tmp_path):
    "What dies half-way never looks whole, and does not stand in the way of the next run."
    from retigan.simulate import write_eyes
    out = tmp_path/'eyes'
    run = start(out)
    run.kill()
    run.communicate()
    assert not out.exists()
    write_eyes(out, n=1, size=64)
    assert json.loads((out/'eyes.json').read_text())['eyes'][0]['seed'] == 0


@pytest.mark.skipif(os.name == 'nt', reason='sends a POSIX signal')
def test_interrupted_run_cleans_up(tmp_path):
    run = start(tmp_path/'eyes')
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_keeps_the_old_eyes_until_the_new_are_whole(tmp_path, monkeypatch):
    import retigan.simulate as simulate
    simulate.write_eyes(tmp_path/'eyes', n=2, size=64)
    before = files(tmp_path/'eyes')

    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(simulate, 'save_mask', full)
    with pytest.raises(OSError, match='No space left'): simulate.write_eyes(tmp_path/'eyes', n=1, size=64, overwrite=True)
    assert files(tmp_path/'eyes') == before
    assert [p.name for p in tmp_path.iterdir()] == ['eyes']


def test_command_shows_progress(tmp_path):
    done = subprocess.run(['retigan-simulate', '--n', '3', '--size', '64', '--out', str(tmp_path/'eyes')], capture_output=True, text=True,
                          env={k: v for k, v in os.environ.items() if k != 'TQDM_DISABLE'}, check=True)
    assert 'eyes: 100%' in done.stderr and '3/3' in done.stderr
    assert str(tmp_path/'eyes'/'images') in done.stdout
