"""What chapters 02 and 10 can't show: files cut anywhere, pickles that would run code, processes killed while they save,
and the Hugging Face Hub, played by a small server on this machine, there and gone."""
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from retigan.model import RetiGAN, RetiGANConfig
from retigan.weights import PretrainedError, read_pretrained, write_pretrained

TINY = RetiGANConfig(size=32, filters=4, n_enc=1, n_bottle=1, d_filters=4, n_dim=1)


def tiny(seed=0): return RetiGAN(RetiGANConfig(**{**TINY.to_dict(), 'seed': seed}))


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def run(code, *args, **env):
    "Run Python in a process of its own; returns what it printed."
    done = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def stored(tmp_path):
    return tiny().save_pretrained(tmp_path/'eye', with_discriminator=True)


# Files

def test_a_file_cut_anywhere_is_refused(stored):
    path = stored/'model.safetensors'
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *random.Random(0).sample(range(len(data)), 20), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(PretrainedError, match='model.safetensors'): RetiGAN.from_pretrained(stored)
    path.write_bytes(data + b'\0')
    with pytest.raises(PretrainedError, match='SHA-256'): RetiGAN.from_pretrained(stored)


def test_a_config_cut_anywhere_is_refused(stored):
    path = stored/'config.json'
    data = path.read_bytes()
    for length in range(0, len(data) - 2, 7):
        path.write_bytes(data[:length])
        with pytest.raises(PretrainedError, match='config.json'): RetiGAN.from_pretrained(stored)


def test_a_header_that_lies_is_refused_and_not_a_crash(stored):
    "The digest fits, so that the file itself has to be refused."
    for data in (b'', b'\xff'*64, (10**15).to_bytes(8, 'little') + b'{}', (2).to_bytes(8, 'little') + b'[]',
                 (60).to_bytes(8, 'little') + b'{"G.x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(60)):
        (stored/'model.safetensors').write_bytes(data)
        values = json.loads((stored/'config.json').read_text()) | {'weights_sha256': hashlib.sha256(data).hexdigest()}
        (stored/'config.json').write_text(json.dumps(values))
        with pytest.raises(PretrainedError, match='model.safetensors: not readable'): RetiGAN.from_pretrained(stored)


class Marker:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pt', 'weights.pth', 'model.safetensors'])
@pytest.mark.parametrize('legacy', [False, True])
def test_a_pickle_is_refused_by_name_and_never_run(stored, tmp_path, name, legacy):
    (stored/'model.safetensors').unlink()
    torch.save({'G': Marker(tmp_path/'ran')}, stored/name, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PretrainedError, match=f'{name}: a pickle, which can run code'): RetiGAN.from_pretrained(stored)
    assert not (tmp_path/'ran').exists()
    with open(stored/name, 'rb') as f: torch.load(f, weights_only=False)         # it would have run
    assert (tmp_path/'ran').exists()


# Saving

def test_weights_that_are_not_finite_do_not_replace_good_ones(stored):
    broken = tiny(1)
    with torch.no_grad(): broken.G.head[1].bias[0] = float('nan')
    with pytest.raises(PretrainedError, match=r'G\.head\.1\.bias holds NaN'): broken.save_pretrained(stored)
    assert same(RetiGAN.from_pretrained(stored), tiny())


@pytest.mark.parametrize('step', range(4))
def test_a_disk_that_fails_leaves_the_model_before_it_or_the_new_one(stored, monkeypatch, step):
    count = iter(range(100))
    def failing(real):
        def call(*args):
            if next(count) == step: raise OSError(28, 'No space left on device')
            return real(*args)
        return call
    with monkeypatch.context() as m:
        for name in ('fsync', 'replace'): m.setattr(os, name, failing(getattr(os, name)))
        with pytest.raises(OSError, match='No space'): tiny(1).save_pretrained(stored, with_discriminator=True)
    assert same(RetiGAN.from_pretrained(stored), tiny(int(step == 3)))
    tiny(2).save_pretrained(stored, with_discriminator=True)
    assert same(RetiGAN.from_pretrained(stored), tiny(2))
    assert sorted(p.name for p in stored.iterdir()) == ['README.md', 'config.json', 'model.safetensors']


SAVING = '''
import sys, torch
from retigan.weights import write_pretrained
tensors = [{"w": torch.full((300_000,), float(i))} for i in range(2)]
print("ready", flush=True)
n = 0
while True:
    write_pretrained(sys.argv[1], {"value": n % 2}, tensors[n % 2])
    n += 1
'''


def test_a_process_killed_while_it_saves_leaves_a_whole_pair(tmp_path):
    folder, moments = tmp_path/'w', random.Random(0)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, '-c', SAVING, str(folder)], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, 'OMP_NUM_THREADS': '1'})
        try:
            assert process.stdout.readline() == 'ready\n'
            deadline = time.monotonic() + 30
            while not (folder/'config.json').exists() and time.monotonic() < deadline: time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.05))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        config, tensors = read_pretrained(folder)
        assert (tensors['w'] == config['value']).all()


def test_a_reader_beside_a_writer_never_sees_half(tmp_path):
    folder, seen = write_pretrained(tmp_path/'w', {'value': 0}, {'w': torch.zeros(1000)}), set()
    stop = threading.Event()
    def write():
        try:
            for n in range(100): write_pretrained(folder, {'value': n % 2}, {'w': torch.full((1000,), float(n % 2))})
        finally: stop.set()
    thread = threading.Thread(target=write)
    thread.start()
    while not stop.is_set():
        config, tensors = read_pretrained(folder)
        assert (tensors['w'] == config['value']).all()
        seen.add(config['value'])
    thread.join()
    assert seen == {0, 1}


# The Hub

class Hub(BaseHTTPRequestHandler):
    "As much of huggingface.co as a download needs: user/eye is whole, user/pickle has a pickle only, the rest is not there."
    root = None

    def answer(self, body):
        _, user, repo, _, _, name = self.path.split('?')[0].split('/')
        path = self.root/repo/name
        found = (self.root/repo).is_dir()
        self.send_response(200 if path.is_file() else 404)
        data = path.read_bytes() if path.is_file() else b''
        if path.is_file(): self.send_header('ETag', '"' + hashlib.sha256(data).hexdigest() + '"')
        else: self.send_header('X-Error-Code', 'EntryNotFound' if found else 'RepoNotFound')
        self.send_header('X-Repo-Commit', '0'*40)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if body: self.wfile.write(data)

    def do_GET(self): self.answer(True)
    def do_HEAD(self): self.answer(False)
    def log_message(self, *args): pass


@pytest.fixture
def hub(tmp_path):
    Hub.root = tmp_path/'hub'
    tiny(3).save_pretrained(Hub.root/'eye')
    (Hub.root/'pickle').mkdir()
    torch.save(tiny(3).state_dict(), Hub.root/'pickle'/'pytorch_model.bin')
    (Hub.root/'pickle'/'config.json').write_text((Hub.root/'eye'/'config.json').read_text())
    (Hub.root/'broken').mkdir()
    (Hub.root/'broken'/'config.json').write_text('{"size": ')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path/'hf'), HF_HUB_DISABLE_TELEMETRY='1',
               HF_HUB_DISABLE_PROGRESS_BARS='1', NO_PROXY='*', no_proxy='*'), server
    server.shutdown()
    server.server_close()


LOADING = '''
import sys, torch
from retigan.model import RetiGAN
try: model = RetiGAN.from_pretrained(sys.argv[1])
except ValueError as error: print(f"{type(error).__name__}: {error}")
else: print(model.config.seed, model.D, sum(p.sum().item() for p in model.parameters()))
'''


def test_a_model_comes_from_the_hub_and_then_from_the_cache(hub):
    env, server = hub
    expected = f'3 None {sum(p.sum().item() for p in RetiGAN.from_pretrained(Hub.root/"eye").parameters())}\n'
    assert run(LOADING, 'user/eye', **env) == expected
    server.shutdown()
    server.server_close()
    assert run(LOADING, 'user/eye', **env, HF_HUB_OFFLINE='1') == expected
    assert run(LOADING, 'user/eye', **env) == expected


def test_what_the_hub_cannot_give_is_refused_with_advice(hub):
    env, _ = hub
    said = run(LOADING, 'user/pickle', **env)
    assert said.startswith('PretrainedError: user/pickle: no such folder, and on the Hugging Face Hub it lacks') and 'pickles are not read' in said
    said = run(LOADING, 'user/nothing', **env)
    assert 'RepositoryNotFoundError' in said and 'Give a folder that save_pretrained made' in said
    assert run(LOADING, 'user/broken', **env).startswith('PretrainedError: user/broken')
    assert 'HFValidationError' in run(LOADING, 'no/such/folder/here', **env)


@pytest.mark.parametrize('offline', [{}, {'HF_HUB_OFFLINE': '1'}])
def test_without_a_network_the_error_says_what_to_do(tmp_path, offline):
    env = dict(HF_ENDPOINT='http://127.0.0.1:9', HF_HOME=str(tmp_path/'hf'), NO_PROXY='*', no_proxy='*', **offline)
    said = run(LOADING, 'user/eye', **env)
    assert said.startswith('PretrainedError: user/eye: no such folder, and the Hugging Face Hub cannot be reached'), said
    assert 'a network connection; or download the model elsewhere' in said


def test_what_is_uploaded_is_what_is_stored(monkeypatch, tmp_path):
    uploaded = {}
    class Api:
        def __init__(self, **kwargs): pass
        def create_repo(self, repo_id, **kwargs): return type('Repo', (), {'repo_id': repo_id})
        def upload_folder(self, repo_id, folder_path, **kwargs):
            uploaded.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})
            return f'https://huggingface.co/{repo_id}'
    monkeypatch.setattr('huggingface_hub.hub_mixin.HfApi', Api)
    link = tiny().save_pretrained(tmp_path/'eye', repo_id='user/eye', push_to_hub=True, model_card_kwargs={'notes': 'From a test.'})
    assert link == 'https://huggingface.co/user/eye'
    assert uploaded == {p.name: p.read_bytes() for p in (tmp_path/'eye').iterdir()}
    assert b'From a test.' in uploaded['README.md'] and set(uploaded) == {'README.md', 'config.json', 'model.safetensors'}


# The rest

def test_a_progress_bar_counts_pictures(capsys):
    model, trees = tiny(), torch.zeros(5, 1, 32, 32)
    plain = model.generate(trees, batch_size=2)
    capsys.readouterr()
    assert torch.equal(model.generate(trees, batch_size=2, progress=True), plain)
    assert 'painting' in capsys.readouterr().err


def test_importing_the_model_brings_in_no_drawing():
    assert run('import sys, retigan.model; print([m for m in ("matplotlib", "cv2", "ipywidgets") if m in sys.modules])') == '[]\n'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_the_seed_decides_the_same_weights_and_pictures_come_back():
    tree = (torch.rand(3, 1, 70, 50, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    model, before = tiny(), torch.cuda.get_rng_state()
    with torch.device('cuda'): on_gpu = tiny()
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert on_gpu.G.head[1].weight.is_cuda and all(torch.equal(a, b.cpu()) for a, b in zip(model.parameters(), on_gpu.parameters()))
    painted = on_gpu.generate(tree, tile=32, overlap=16)
    assert painted.device.type == 'cpu' and on_gpu.generate(tree.cuda()).is_cuda
    assert (painted - model.generate(tree, tile=32, overlap=16)).abs().mean() < 1e-2


def test_shipped_model_is_small_and_paints_offline(tmp_path):
    "As README shows it: without a network connection, from any folder."
    code = ('import socket; socket.socket.connect = lambda *a: (_ for _ in ()).throw(OSError("no network"))\n'
            'from retigan.model import RetiGAN\nfrom retigan.simulate import simulate_eye\n'
            'eye = simulate_eye(128, seed=3); image = RetiGAN.from_pretrained("eyes-demo").generate(eye.vessels, eye.fov)[0]\n'
            'inside, tree = eye.fov[0] > 0, eye.vessels[0] > 0; red, green, blue = image\n'
            'print(tuple(image.shape), bool(green[inside & tree].mean() < green[inside & ~tree].mean()), bool(red[inside].mean() > blue[inside].mean()))')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == '(3, 128, 128) True True\n', done.stderr
    from importlib import resources
    folder = resources.files('retigan')/'pretrained'/'eyes-demo'
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8e6
