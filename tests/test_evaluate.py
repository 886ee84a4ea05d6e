"""retigan-evaluate: the same report every time, from whatever it is given; and metrics whose weights have to be there."""
import hashlib
import json
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from retigan.cli import evaluate, train
from retigan.datasets import SimulatedEyes, open_dataset
from retigan.evaluate import Pictures, cached_file, copy_test, frechet_distance, inception_features, kernel_distance, lpips, square_samples
from retigan.images import save_mask
from retigan.simulate import write_eyes


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')/'tiny'
    train(steps=3, eyes=5, perceptual='none', out=str(folder))
    return folder


@pytest.fixture(scope='module')
def eyes():
    s = square_samples(SimulatedEyes(5, 256, seed=3), 128)
    return s, Pictures(s['real'].clone(), **s)


def report(folder): return json.loads((Path(folder)/'report.json').read_text())


def test_same_run_same_report(run, tmp_path, capsys):
    "Twice, and the second time elsewhere: the same bytes. The run's own photographs are looked through for copies."
    evaluate(str(run), trees=4)
    evaluate(str(run), trees=4, out=str(tmp_path/'again'))
    for name in ('report.json', 'report.md', 'report.jpg'): assert (run/name).read_bytes() == (tmp_path/'again'/name).read_bytes(), name
    said = capsys.readouterr().out.splitlines()[-1]
    found = report(run)
    assert f'{found["vessels"]["fake"]["dice"]["mean"]:.3f} painted' in said and str(tmp_path/'again'/'report.md') in said
    assert found['title'] == 'tiny on simulated eyes' and set(found['copies']) == {'pixels', 'features'} and len(found['pictures']) == 4
    assert str(tmp_path) not in (run/'report.json').read_text() + (run/'report.md').read_text(), 'a path of this machine'


def test_too_few_trees(run, tmp_path, capsys):
    "Refused before anything is written."
    write_eyes(tmp_path/'clinic', n=10, size=160)
    with pytest.raises(SystemExit) as stopped: evaluate(str(run), data=str(tmp_path/'clinic'), out=str(tmp_path/'out'))
    assert stopped.value.code == 2 and 'expected at least 4' in capsys.readouterr().err          # two test photographs of ten
    assert not (tmp_path/'out').exists(), 'half a report'


def test_a_photograph_without_vessels_is_named(run, tmp_path, capsys):
    "Before anything is painted or written."
    write_eyes(tmp_path/'clinic', n=20, size=160)
    blank = open_dataset(tmp_path/'clinic', split='test').names[1]
    save_mask(torch.zeros(1, 160, 160), tmp_path/'clinic'/'masks'/f'{blank}.png')
    with pytest.raises(SystemExit) as stopped: evaluate(str(run), data=str(tmp_path/'clinic'), out=str(tmp_path/'out'))
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and f'{blank}: its tree is empty' in said and 'painting' not in said
    assert not (tmp_path/'out').exists(), 'half a report'


def test_a_run_whose_photographs_are_gone(tmp_path, capsys):
    "A report on the package's eyes is still to be had, and says that it says nothing of copies."
    write_eyes(tmp_path/'eyes', n=4, size=160)
    train(data=str(tmp_path/'eyes'), steps=2, perceptual='none', out=str(tmp_path/'run'))
    (tmp_path/'eyes').rename(tmp_path/'moved')
    with pytest.raises(SystemExit): evaluate(str(tmp_path/'run'))
    assert str(tmp_path/'eyes') in capsys.readouterr().err
    write_eyes(tmp_path/'many', n=24, size=160)
    evaluate(str(tmp_path/'run'), data=str(tmp_path/'many'))
    assert 'nothing will be said of copies' in capsys.readouterr().err
    assert report(tmp_path/'run')['copies'] is None


def test_lpips_with_weights_that_are_there(eyes, tmp_path, monkeypatch):
    "AlexNet's file, here with random numbers in it, is found in torch.hub's folder; equal pictures are 0 apart, a blur more the stronger."
    from torchvision.models import alexnet
    from torchvision.transforms.functional import gaussian_blur
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    s, p = eyes
    assert lpips(p) is None
    (tmp_path/'checkpoints').mkdir()
    torch.manual_seed(0)
    torch.save(alexnet().state_dict(), tmp_path/'checkpoints'/'alexnet-owt-7be5be79.pth')
    assert cached_file('alexnet-owt-7be5be79.pth')
    far = [sum(lpips(replace(p, fake=x)))/len(p) for x in (p.real, gaussian_blur(p.real, 9, 1.), gaussian_blur(p.real, 19, 4.))]
    assert far[0] == pytest.approx(0, abs=1e-5) and far[0] < far[1] < far[2]


@pytest.fixture(scope='module')
def inception(tmp_path_factory):
    "A file as torch-fidelity's, with random numbers in it and its digest in its name."
    network = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3', reason='needs torch-fidelity, which pip install -e .[dev] brings')
    folder = tmp_path_factory.mktemp('inception')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, 'load_state_dict_from_url', lambda *args, **kwargs: None)
        patch.setattr(network.FeatureExtractorInceptionV3, 'load_state_dict', lambda *args: None)
        net = network.FeatureExtractorInceptionV3('inception', ['2048'])
    torch.manual_seed(0)
    for w in net.state_dict().values():
        if w.ndim == 4: torch.nn.init.kaiming_normal_(w)
    torch.save(net.state_dict(), folder/'weights')
    digest = hashlib.sha256((folder/'weights').read_bytes()).hexdigest()
    return (folder/'weights').rename(folder/f'weights-inception-{digest[:8]}.pth')


def test_inception_is_fetched_checked_and_used(eyes, inception, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    handler = partial(SimpleHTTPRequestHandler, directory=inception.parent)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/{inception.name}'
        assert inception_features(url=url) is None and not list(tmp_path.rglob('*'))           # nothing is fetched unasked
        features = inception_features(download=True, url=url)
        bad = inception.with_name('weights-inception-00000000.pth')
        bad.write_bytes(inception.read_bytes())
        with pytest.raises(RuntimeError, match='invalid hash'): inception_features(download=True, url=url.replace(inception.name, bad.name))
        server.shutdown()
    assert [f.name for f in tmp_path.rglob('*.*')] == [inception.name]                         # the false one has left nothing
    assert inception_features(url=url).num_features == 2048                                    # there now
    s, p = eyes
    assert 'Inception' in features.name
    near, far = (frechet_distance(x, p.real, features) for x in (p.real, p.real.flip(1)))
    assert abs(near) < 1e-3*far
    assert kernel_distance(p.real.flip(1), p.real, features) > kernel_distance(p.real, p.real, features)


def test_inception_runs_no_code(inception, tmp_path):
    class Evil:
        def __reduce__(self): return (Path.touch, (tmp_path/'touched',))
    torch.save(dict(weight=Evil()), tmp_path/'evil.pth')
    with pytest.raises(ValueError, match='evil.pth: expected the weights of Inception, tensors and nothing else'): inception_features(tmp_path/'evil.pth')
    assert not (tmp_path/'touched').exists()


def test_copies_of_some(eyes):
    "Two of five pictures stolen: these two are named, and no other."
    s, p = eyes
    learnt = square_samples(SimulatedEyes(12, 256, seed=900), 128)
    fake = square_samples(SimulatedEyes(5, 256, seed=410), 128)['real']              # 402 looks much like 906 in a mirror: results/copies.md says how often that happens
    fake[1], fake[3] = learnt['real'][7].flip(-1)*.9, learnt['real'][2].flip(-2) + .02*torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = copy_test(replace(p, fake=fake), learnt)
    assert found['copies'] == [p.names[1], p.names[3]] and not found['passed']
    assert (found['index'][1], found['index'][3]) == (7, 2)
