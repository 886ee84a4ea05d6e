"""What the chapter on segmentation can't show: the command in a shell, killed runs, no network, and DRIVE."""
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from retigan.images import read_mask, save_image
from retigan.metrics import dice
from retigan.simulate import simulate_eye
from retigan.unet import UNet, shipped_networks
from retigan.weights import PretrainedError


def segment(*words, cwd, **environment):
    return subprocess.run(['retigan-segment', *map(str, words)], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, 'TQDM_DISABLE': '1', 'OMP_NUM_THREADS': '1', **environment})


@pytest.fixture
def clinic(tmp_path):
    "Four photographs, one of which is broken."
    folder = tmp_path/'clinic'
    folder.mkdir()
    for seed in range(3): save_image(simulate_eye(256, seed=seed).image, folder/f'eye{seed}.png')
    (folder/'torn.png').write_bytes((folder/'eye0.png').read_bytes()[:2000])
    return folder


def test_command_segments_a_folder(clinic, tmp_path):
    done = segment(clinic, '--out', 'trees', '--fast', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '3 vessel trees written, 0 were there, 1 left out: trees/masks'
    assert 'torn.png' in done.stderr and 'Traceback' not in done.stderr
    for seed in range(3):
        eye = simulate_eye(256, seed=seed)
        assert dice(read_mask(tmp_path/f'trees/masks/eye{seed}.png'), eye.vessels, eye.fov) > .5
    assert list(json.loads((tmp_path/'trees/segment.json').read_text())['bad']) == ['torn']
    again = segment(clinic, '--out', 'trees', '--fast', cwd=tmp_path)
    assert '0 vessel trees written, 3 were there, 1 left out' in again.stdout


def test_same_masks_from_one_process_or_two_runs(clinic, tmp_path):
    "A run that went on where another stopped writes the same bytes."
    segment(clinic, '--out', 'whole', '--fast', cwd=tmp_path)
    segment(clinic/'eye1.png', '--out', 'parts', '--fast', cwd=tmp_path)
    segment(clinic, '--out', 'parts', '--fast', cwd=tmp_path)
    for seed in range(3): assert (tmp_path/f'whole/masks/eye{seed}.png').read_bytes() == (tmp_path/f'parts/masks/eye{seed}.png').read_bytes()


def test_killed_run_goes_on(tmp_path):
    "Killed at once after its first tree, and once more: nothing torn, nothing made twice, all there in the end."
    folder = tmp_path/'many'
    folder.mkdir()
    for seed in range(6): save_image(simulate_eye(200, seed=seed).image, folder/f'{seed}.png')
    out = tmp_path/'out'
    for least in (1, 3):
        run = subprocess.Popen(['retigan-segment', folder, '--out', out, '--native'], env={**os.environ, 'OMP_NUM_THREADS': '1'},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while len(list(out.glob('masks/[0-9].png'))) < least and run.poll() is None:
            assert time.monotonic() < deadline, 'the run wrote nothing'
            time.sleep(.01)
        run.kill()
        run.communicate()
    times = {path: path.stat().st_mtime_ns for path in out.glob('masks/[0-9].png')}
    assert len(times) >= 3
    done = segment(folder, '--out', out, '--native', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob('masks/[0-9].png'))) == 6
    assert all(path.stat().st_mtime_ns == t for path, t in times.items())
    for path in out.glob('*/[0-9].png'): read_mask(path) if path.parent.name != 'images' else None


@pytest.mark.parametrize('words, code, says', [
    (['nowhere'], 2, 'no such file'), (['clinic', '--threshold', '2'], 2, 'threshold must be'), (['clinic', '--tile', '40', '--fast', '--native'], 2, 'tile is 40'),
    (['clinic', '--weights', 'no-such-net'], 2, 'neither a folder'), (['clinic', '--device', 'tpu'], 2, 'device is')])
def test_mistakes_end_in_one_sentence(clinic, tmp_path, words, code, says):
    done = segment(*words, cwd=tmp_path, HF_HUB_OFFLINE='1')
    assert done.returncode == code and says in done.stderr and 'Traceback' not in done.stderr, done.stderr


def test_shipped_network_is_small_and_loads_offline(tmp_path):
    code = ('import socket; socket.socket.connect = lambda *a: (_ for _ in ()).throw(OSError("no network"))\n'
            'from retigan.unet import UNet; net = UNet.from_pretrained(); print(net.use["threshold"], net.training)')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith('False\n'), done.stderr
    from importlib import resources
    for name in shipped_networks():
        folder = resources.files('retigan')/'pretrained'/name
        assert sum(f.stat().st_size for f in folder.iterdir()) < 4e6
        card = (folder/'README.md').read_text()
        assert 'benchmarks/' in card and 'Dice' in card


def test_hub_without_network_says_what_to_do(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(PretrainedError, match='vessels-simulated.*network connection'): UNet.from_pretrained('nobody/nothing-of-the-kind')


def test_shipped_network_on_drive(drive):
    "Simulated eyes only, tested on real ones: the score of the model card, on five photographs."
    from retigan.datasets import open_dataset
    from retigan.segment import find_vessels
    net, samples = UNet.from_pretrained(), open_dataset(drive, split='test')
    scores = [dice((find_vessels(net, s.image, s.fov, flips=False) >= net.use['threshold']).float(), s.vessels, s.fov) for s in (samples[i] for i in range(5))]
    assert sum(scores)/5 > .65


def test_large_picture_needs_the_memory_of_a_tile(tmp_path):
    "A network of 16 channels on 1600 x 1600 pixels: the whole takes 64 bytes a pixel and level, a tile of 256 a fraction."
    code = ('import resource, sys, torch; torch.set_num_threads(1)\n'
            'from retigan.segment import predict_tiled; from retigan.unet import UNet\n'
            'torch.manual_seed(0); net = UNet((3, 16, 32, 64)); x = torch.zeros(3, 1600, 1600)\n'
            'predict_tiled(net, x[:, :256, :256], None); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
            'predict_tiled(net, x, int(sys.argv[1]) or None)\n'
            'print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024)')
    tiled, whole = (float(subprocess.run([sys.executable, '-c', code, t], cwd=tmp_path, capture_output=True, text=True, check=True).stdout) for t in ('256', '0'))
    assert tiled < whole/4, (tiled, whole)
