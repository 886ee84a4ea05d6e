"""What the chapter on training can't show: bytes that are the same after a resume, runs killed at any moment, disks that are
full, files that are broken, two processes against one, and the step beside one written the plain way."""
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from retigan.datasets import SimulatedEyes
from retigan.model import RetiGAN, RetiGANConfig
from retigan.smooth_edges import smooth_edges
from retigan.train import (Callback, CheckpointError, Look, Trainer, TrainingError, latest_checkpoint, load_run, make_losses, read_checkpoint,
                           read_metrics, step_d, step_g)

TINY = dict(size=32, filters=4, n_bottle=1, d_filters=4, perceptual='none', steps=6, batch_size=2, n_dim=2)
QUIET = dict(progress=False, log_every=1, sample_every=1000)


@pytest.fixture(autouse=True)
def one_thread():
    "The same sums in the same order here and in the processes that the tests start."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def eyes(): return SimulatedEyes(3, 64, seed=5)


def tiny(**changes): return RetiGANConfig(**{**TINY, **changes})


def trained(eyes, run, cfg=None, resume=False, options={}, **fit):
    "A trainer after `fit` on the CPU."
    trainer = Trainer(cfg or tiny(), cpu=True, **options)
    trainer.fit(eyes, run=run, resume=resume, **{**QUIET, 'save_every': 3, **fit})
    return trainer


def everything(run):
    "All that a run has come to: the tensors of its newest checkpoint, and its metrics without the times."
    folder = latest_checkpoint(run)
    info, tensors = read_checkpoint(folder)
    rows = [{k: v for k, v in row.items() if k not in ('seconds', 'wait')} for row in read_metrics(Path(run)/'metrics.csv')]
    return info['step'], {**tensors, **{f'generator.{k}': v for k, v in RetiGAN.from_pretrained(folder).state_dict().items()}}, rows


def assert_same_run(a, b):
    (step_a, tensors_a, rows_a), (step_b, tensors_b, rows_b) = everything(a), everything(b)
    assert step_a == step_b and tensors_a.keys() == tensors_b.keys()
    differ = [name for name, t in tensors_a.items() if t.dtype != tensors_b[name].dtype or not torch.equal(t, tensors_b[name])]
    assert not differ, f'not the same bits: {differ[:5]} and {len(differ[5:])} more'
    assert rows_a == rows_b and [row['step'] for row in rows_a] == list(range(1, step_a + 1))


def steps_kept(run): return sorted(int(p.name[5:]) for p in (Path(run)/'checkpoints').glob('step_*'))


def aside(run): return [str(p.relative_to(run)) for p in Path(run).rglob('.*')]


def python(code, *args, **kwargs):
    "A process of its own on one thread."
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1', **kwargs})


def finished(process, seconds=120):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-3000:]
    return out


# Resume

@pytest.mark.parametrize('workers, accumulate', [(0, 1), (0, 2), (2, 1), (2, 2)])
def test_six_steps_are_three_and_three_more(eyes, tmp_path, workers, accumulate):
    "Every bit of the networks, the average, Adam, and the pool, with augmentation on."
    options = dict(pool=2, accumulate=accumulate)
    whole = trained(eyes, tmp_path/'whole', options=options, workers=workers)
    trained(eyes, tmp_path/'parts', options=options, workers=workers, until=3)
    assert steps_kept(tmp_path/'parts') == [3]
    resumed = trained(eyes, tmp_path/'parts', options=options, workers=workers, resume=True)
    assert_same_run(tmp_path/'whole', tmp_path/'parts')
    names = everything(tmp_path/'parts')[1]
    for part in ('G.', 'D.', 'average.', 'adam.', 'pool.kept', 'pool.rng', 'generator.G.'): assert any(n.startswith(part) for n in names), part
    for a, b in ((whole.model, resumed.model), (whole.average, resumed.average)):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True): assert torch.equal(x, y), name
    assert [row['lr'] for row in whole.history] == [row['lr'] for row in resumed.history][:3] + [row['lr'] for row in whole.history][3:]


def test_workers_change_no_bit(eyes, tmp_path):
    trained(eyes, tmp_path/'none')
    trained(eyes, tmp_path/'two', workers=2)
    assert_same_run(tmp_path/'none', tmp_path/'two')


def test_another_seed_is_another_run(eyes, tmp_path):
    "So that the tests above compare something."
    a, b = (trained(eyes, tmp_path/f'{seed}', tiny(seed=seed)) for seed in (0, 1))
    assert a.history[-1]['g_total'] != b.history[-1]['g_total']


TRAIN = f'''
import sys, torch
torch.set_num_threads(1)
from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
from retigan.train import Callback, Trainer
class Say(Callback):
    def begin(self, trainer): print('begin', trainer.step, flush=True)
    def after_step(self, trainer): print('step', trainer.step, flush=True)
run, steps = sys.argv[1], int(sys.argv[2])
trainer = Trainer(RetiGANConfig(**{{**{TINY}, 'steps': steps}}), pool=2, cpu=True)
trainer.fit(SimulatedEyes(3, 64, seed=5), run=run, resume=True, save_every=1000, callbacks=[Say()], **{QUIET})
print('end', trainer.step, trainer.state, flush=True)
'''


def test_ctrl_c_saves_the_step_and_another_process_goes_on(eyes, tmp_path):
    steps = 60
    process = python(TRAIN, tmp_path/'run', steps)
    for line in process.stdout:
        if line == 'step 5\n': break
    process.send_signal(signal.SIGINT)
    said = finished(process).splitlines()
    assert said[-1].startswith('end') and said[-1].endswith('stopped'), said
    step = int(said[-1].split()[1])
    assert 5 <= step < steps and steps_kept(tmp_path/'run') == [step]
    said = finished(python(TRAIN, tmp_path/'run', steps)).splitlines()
    assert said[0] == f'begin {step}' and said[-1] == f'end {steps} done'
    trained(eyes, tmp_path/'whole', tiny(steps=steps), options=dict(pool=2), save_every=1000)
    assert_same_run(tmp_path/'whole', tmp_path/'run')


# Killed

KILLS = f'''
import json, os, random, shutil, signal, sys, time, warnings
import torch
torch.set_num_threads(1)
import retigan.train as rt
from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
warnings.simplefilter('error', UserWarning)            # a checkpoint that is not whole is met with a warning
root, steps, rng = sys.argv[1], 100, random.Random(8)
eyes, cfg = SimulatedEyes(3, 64, seed=5), RetiGANConfig(**{{**{TINY}, 'steps': steps}})

def train(run, say, inside=None):
    "In a child. With `inside`: at that call of the first save, leave what a kill in its middle leaves, and wait for it."
    class Say(rt.Callback):
        def begin(self, t): say('begin', t.step)
        def after_step(self, t): say('step', t.step)
        def saved(self, t, folder): say('saved', t.step)
    saving, calls, real = [False], [0], dict(fsync=os.fsync, replace=os.replace, rmtree=shutil.rmtree, write=rt.write_checkpoint)
    def write(*args):
        saving[0] = True
        try: return real['write'](*args)
        finally: saving[0] = False
    def watched(name, spoil):
        def call(*args, **kwargs):
            if saving[0] and inside is not None:
                calls[0] += 1
                if calls[0] > inside:
                    spoil(args[0])
                    say('inside', name)
                    time.sleep(60)
            return real[name](*args, **kwargs)
        return call
    def half(fd): os.ftruncate(fd, os.fstat(fd).st_size//2)
    def part(folder): next(p for p in sorted(rt.Path(folder).rglob('*')) if p.is_file()).unlink()
    rt.write_checkpoint = write
    os.fsync, os.replace, shutil.rmtree = watched('fsync', half), watched('replace', lambda path: None), watched('rmtree', part)
    rt.Trainer(cfg, pool=2, cpu=True).fit(eyes, run=run, resume=True, save_every=2, keep=2, callbacks=[Say()], **{QUIET})

def child(run, inside=None):
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(r)
            train(run, lambda *words: os.write(w, (' '.join(map(str, words)) + '\\n').encode()), inside)
            os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc()
        os._exit(1)
    os.close(w)
    return pid, os.fdopen(r)

def wait(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

start = time.monotonic()
pid, said = child(root + '/whole')
said.read(); wait(pid)
a_step = (time.monotonic() - start)/steps

kills = [*range(10), *[None]*10]
rng.shuffle(kills)
report, saved = [], 0
for inside in kills:
    pid, said = child(root + '/run', inside)
    word = said.readline().split()
    assert word[0] == 'begin', word
    begun, last, more = int(word[1]), int(word[1]), rng.randrange(4)
    assert begun >= saved, f'saved at {{saved}}, began at {{begun}}'
    where = 'anywhere'
    while inside is not None or more:
        line = said.readline().split()
        assert line, 'the run was over before the kill'
        if line[0] == 'step': last = int(line[1]); more -= 1
        if line[0] == 'saved': saved = int(line[1])
        if line[0] == 'inside': where = line[1]; break
    if inside is None: time.sleep(rng.random()*2*a_step)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for line in said.read().splitlines():              # what it still said before it died
        kind, n = line.split()
        if kind == 'step': last = int(n)
        if kind == 'saved': saved = int(n)
    found = rt.latest_checkpoint(root + '/run')        # no warning: what has its name is whole
    step = rt.read_checkpoint(found)[0]['step'] if found else 0
    assert step >= saved, (step, saved)
    assert last + 1 - step <= 2, (last, step)          # save_every, counting the step that was being computed
    report.append((where, begun, last, step))
pid, said = child(root + '/run')
said.read(); wait(pid)
print(json.dumps(report))
'''


def test_killed_at_twenty_moments(tmp_path):
    "Ten anywhere, ten inside a save: between any two of its calls, with a file half written or a folder half removed."
    report = json.loads(finished(python(KILLS, tmp_path), 240).splitlines()[-1])
    places = [where for where, *_ in report]
    assert len(report) == 20 and places.count('anywhere') == 10
    assert {'fsync', 'replace', 'rmtree'} < set(places), places
    assert len({step for *_, step in report}) > 5, report
    assert_same_run(tmp_path/'whole', tmp_path/'run')
    assert steps_kept(tmp_path/'run') == [98, 100] and not aside(tmp_path/'run')


def test_killed_before_the_first_config_was_whole(eyes, tmp_path):
    "All that such a run holds is a file aside; it can be resumed, which is to start."
    (tmp_path/'run').mkdir()
    (tmp_path/'run/.config.json.part').write_text('{"config": {"si')
    trained(eyes, tmp_path/'run', resume=True)
    assert steps_kept(tmp_path/'run') == [3, 6] and not aside(tmp_path/'run')


# Full disk

@contextmanager
def small_disk(folder, size):
    "A disk of `size` bytes mounted on `folder`; skips the test where that is not allowed."
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', str(folder)], capture_output=True, text=True) if shutil.which('mount') else None
    if done is None or done.returncode: pytest.skip(f'a small disk can\'t be mounted here: {done.stderr.strip() if done else "no mount"}')
    try: yield folder
    finally: subprocess.run(['umount', '-l', str(folder)], check=True)


@contextmanager
def file_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def size_of(folder): return sum(p.stat().st_size for p in Path(folder).rglob('*') if p.is_file())


def assert_refused_for_room(error, run, step):
    text = str(error.value)
    assert f'step_{step:06}' in text and str(run) in text and 'Make room or choose another folder, then resume' in text, text
    assert not aside(run), aside(run)


@pytest.mark.parametrize('foreseen', [True, False])
def test_full_disk(eyes, tmp_path, monkeypatch, foreseen):
    "Room for two checkpoints and a half: the third is refused, before it is written or in its middle."
    trained(eyes, tmp_path/'whole', save_every=1, keep=9)
    one = size_of(latest_checkpoint(tmp_path/'whole'))
    with small_disk(tmp_path/'disk', int(2.5*one) + 60_000) as disk:
        with monkeypatch.context() as m:
            if not foreseen: m.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
            with pytest.raises(CheckpointError, match='No space left') as error: trained(eyes, disk/'run', save_every=1)
        assert_refused_for_room(error, disk/'run', 3)
        assert steps_kept(disk/'run') == [1, 2] and read_checkpoint(latest_checkpoint(disk/'run'))[0]['step'] == 2
        assert 'step_000001, step_000002' in str(error.value)
        subprocess.run(['mount', '-o', 'remount,size=64m', str(disk)], check=True)
        trained(eyes, disk/'run', resume=True, save_every=1)
        assert_same_run(disk/'run', tmp_path/'whole')


def test_files_that_may_not_grow(eyes, tmp_path):
    "The limit of a shell's `ulimit -f`, met in the middle of the weights."
    run = tmp_path/'run'
    trained(eyes, run, until=3)
    weights = (latest_checkpoint(run)/'training/model.safetensors').stat().st_size
    with file_limit(weights//2), pytest.raises(CheckpointError, match='File too large') as error: trained(eyes, run, resume=True)
    assert_refused_for_room(error, run, 6)
    assert steps_kept(run) == [3] and read_checkpoint(latest_checkpoint(run))[0]['step'] == 3
    trained(eyes, run, resume=True)
    trained(eyes, tmp_path/'whole')
    assert_same_run(tmp_path/'whole', run)


@pytest.mark.parametrize('call', range(6))
def test_a_disk_that_fails_at_any_rename(eyes, tmp_path, monkeypatch, call):
    "Four renames of files, one of the folder, one of `latest`: what is there stays, and a resume goes on."
    run, count, real = tmp_path/'run', iter(range(1000)), os.replace
    trainer = trained(eyes, run, until=3)
    def failing(*args):
        if next(count) == call: raise OSError(28, 'No space left on device')
        return real(*args)
    trainer.step = 4
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', failing)
        with pytest.raises(CheckpointError, match='step_000004'): trainer.checkpoint()
    assert 3 in steps_kept(run) and not aside(run), aside(run)
    for step in steps_kept(run): assert read_checkpoint(run/f'checkpoints/step_{step:06}')[0]['step'] == step


# Broken files

def break_file(path, how):
    data = bytearray(path.read_bytes())
    if how == 'cut': data = data[:len(data)*2//3]
    elif how == 'empty': data = b''
    elif how == 'changed': data[len(data)*2//3] ^= 1
    path.write_bytes(data)


@pytest.fixture
def run(eyes, tmp_path):
    "A run with checkpoints at 2 and 4 of 6 steps."
    trained(eyes, tmp_path/'run', until=4, save_every=2)
    assert steps_kept(tmp_path/'run') == [2, 4]
    return tmp_path/'run'


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json', 'training/model.safetensors', 'training/config.json'])
@pytest.mark.parametrize('how', ['cut', 'empty', 'changed', 'gone'])
def test_a_broken_file_means_the_checkpoint_before(eyes, run, name, how):
    path = run/'checkpoints/step_000004'/name
    if how == 'changed' and name.endswith('.json'): path.write_text(path.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    elif how == 'gone': path.unlink()
    else: break_file(path, how)
    with pytest.warns(UserWarning, match='step_000004: not a whole checkpoint.*trying the one before it'):
        assert latest_checkpoint(run).name == 'step_000002'
    if how == 'gone': return                            # the rest is the same for all
    with pytest.warns(UserWarning, match='step_000004'): trained(eyes, run, resume=True, save_every=2)
    trained(eyes, run.parent/'whole', save_every=2)
    assert_same_run(run.parent/'whole', run)


def test_all_broken(eyes, run):
    for path in run.glob('checkpoints/*/training/model.safetensors'): break_file(path, 'cut')
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match='none of 2 checkpoints is whole'): trained(eyes, run, resume=True)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match='none of 2'): load_run(run)
    assert steps_kept(run) == [2, 4]                    # left for somebody to look at


class Marker:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


@pytest.mark.parametrize('name', ['model.safetensors', 'training/model.safetensors', 'model.bin', 'training/pytorch_model.bin'])
def test_a_pickle_is_refused_and_never_run(eyes, run, tmp_path, name):
    for folder in run.glob('checkpoints/step_*'):
        (folder/name).with_name('model.safetensors').unlink()
        torch.save({'G': Marker(tmp_path/'ran')}, folder/name)
    with pytest.warns(UserWarning, match='a pickle, which can run code'), pytest.raises(CheckpointError, match='none of 2'): trained(eyes, run, resume=True)
    assert not (tmp_path/'ran').exists()
    with open(folder/name, 'rb') as f: torch.load(f, weights_only=False)         # it would have run
    assert (tmp_path/'ran').exists()


# Other settings, other folders

@pytest.mark.parametrize('change, options, fit, says', [
    (dict(lr=1e-3), {}, {}, ['config lr: 0.0002 in the run, 0.001 now']),
    (dict(seed=1, filters=8), {}, {}, ['config filters: 4 in the run, 8 now', 'config seed: 0 in the run, 1 now']),
    (dict(steps=8), {}, {}, ['config steps: 6 in the run, 8 now']),
    ({}, dict(accumulate=2), {}, ['option accumulate: 1 in the run, 2 now']),
    ({}, dict(pool=3, decay=.25), {}, ['option pool: 0 in the run, 3 now', 'option decay: 0.5 in the run, 0.25 now']),
    ({}, {}, dict(augment=False), ['data augment: True in the run, False now'])])
def test_resume_with_other_settings_names_them(eyes, run, change, options, fit, says):
    with pytest.raises(CheckpointError) as error: trained(eyes, run, tiny(**change), resume=True, options=options, **fit)
    for words in says: assert words in str(error.value)
    named = str(error.value).split('settings: ')[1].split('. Resume')[0].split('; ')
    assert len([n for n in named if not n.startswith('data side')]) == len(says), named
    assert steps_kept(run) == [2, 4] and len(read_metrics(run/'metrics.csv')) == 4


def test_resume_with_other_eyes_names_them(run):
    with pytest.raises(CheckpointError, match='data samples: 3 in the run, 4 now'): trained(SimulatedEyes(4, 64, seed=5), run, resume=True)


def test_other_eyes_of_the_same_number_are_noticed(run):
    with pytest.raises(CheckpointError, match='data names'): trained(SimulatedEyes(3, 64, seed=6), run, resume=True)


def test_settings_that_may_differ(eyes, run):
    trained(eyes, run, tiny(lr=1e-3), resume=True, may_differ=('lr',))
    assert steps_kept(run)[-1] == 6


def test_a_run_is_not_overwritten(eyes, run):
    before = {p: p.read_bytes() for p in run.rglob('*') if p.is_file()}
    with pytest.raises(FileExistsError, match='holds a run already; resume it'): trained(eyes, run)
    assert before == {p: p.read_bytes() for p in run.rglob('*') if p.is_file()}


@pytest.mark.parametrize('resume', [False, True])
def test_a_folder_with_other_things_is_refused(eyes, tmp_path, resume):
    (tmp_path/'thesis.txt').write_text('three years of work')
    with pytest.raises(FileExistsError, match='holds other things than a run'): trained(eyes, tmp_path, resume=resume)
    with pytest.raises(FileExistsError, match='is a file'): trained(eyes, tmp_path/'thesis.txt', resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


# Losses that are not finite

class Spoiled(torch.nn.Module):
    "A term of a loss that is NaN from one call on."
    def __init__(self, term, call):
        super().__init__()
        self.term, self.call, self.calls = term, call, 0

    def forward(self, *args):
        self.calls += 1
        return self.term(*args)*(float('nan') if self.calls >= self.call else 1)


def finite(run):
    return all(torch.isfinite(t).all() for p in (Path(run)/'checkpoints').glob('step_*') for t in read_checkpoint(p)[1].values())


@pytest.mark.parametrize('side, term, call, name', [('loss_g', 'matching', 5, 'g_fm'), ('loss_d', 'adversarial', 13, 'd_real')])
def test_a_term_that_is_not_finite_ends_the_run(eyes, tmp_path, side, term, call, name):
    "The fifth step of both: D's loss has three terms of one kind."
    trainer = Trainer(tiny(), cpu=True)
    loss = getattr(trainer, side)
    setattr(loss, term, Spoiled(getattr(loss, term), call))
    with pytest.raises(TrainingError, match=rf'step 5: .*{name}.* not finite; the last good checkpoint is step_000004'):
        trainer.fit(eyes, run=tmp_path/'run', save_every=2, **QUIET)
    assert trainer.state == 'failed' and steps_kept(tmp_path/'run') == [2, 4] and finite(tmp_path/'run')
    assert [row['step'] for row in read_metrics(tmp_path/'run/metrics.csv')] == [1, 2, 3, 4]
    trained(eyes, tmp_path/'run', resume=True, save_every=2)
    trained(eyes, tmp_path/'whole', save_every=2)
    assert_same_run(tmp_path/'whole', tmp_path/'run')


@pytest.mark.parametrize('perceptual', ['none', 'unet'])
def test_weights_that_burst(eyes, tmp_path, perceptual):
    "A learning rate that no network survives, with and without a network that looks at the pictures."
    class Burst(Callback):
        def before_step(self, t):
            if t.step == 2: t.optimiser.param_groups[0]['lr'] = 1e38
    with pytest.raises(TrainingError, match=r'step 4: .*not finite; the last good checkpoint is step_000002.*Try a smaller lr'):
        trained(eyes, tmp_path/'run', tiny(perceptual=perceptual), save_every=2, callbacks=[Burst()])
    assert finite(tmp_path/'run') and steps_kept(tmp_path/'run') == [2]


def test_nothing_is_saved_of_a_loss_that_was_not_read_yet(eyes, tmp_path, monkeypatch):
    "On a GPU the terms are read every log_every steps only; a save between must not name the disk as the cause."
    trainer = Trainer(tiny(), cpu=True)
    trainer.loss_g.matching = Spoiled(trainer.loss_g.matching, 2)
    with monkeypatch.context() as m:
        device = trainer.device
        class Elsewhere:
            type = 'elsewhere'
        real = Trainer._train_step
        def step(self, batches):
            self.device = device
            try: return real(self, batches)
            finally: self.device = Elsewhere
        m.setattr(Trainer, '_train_step', step)
        trainer.device = Elsewhere
        with pytest.raises(TrainingError, match='step 2: .*g_fm'):
            trainer.fit(eyes, run=tmp_path/'run', save_every=1, **{**QUIET, 'log_every': 6})
    assert steps_kept(tmp_path/'run') == [1] and finite(tmp_path/'run')


# The step

def plain_terms_d(D, condition, fake, real, smoothed, mode):
    "pix2pixHD: D sees the painted pair without the graph of G, then the true one, each in a pass of its own."
    def score(image, target):
        return sum(F.mse_loss(s[-1], torch.full_like(s[-1], target)) if mode == 'lsgan' else
                   F.binary_cross_entropy_with_logits(s[-1], torch.full_like(s[-1], target)) for s in D(torch.cat([condition, image], 1)))
    terms = dict(fake=score(fake.detach(), 0.), real=score(real, 1.))
    if smoothed is not None: terms['smoothed'] = score(smoothed, 0.)
    return {**terms, 'total': sum(terms.values())/2}


def plain_terms_g(D, condition, fake, real, mode, cfg, perceptual):
    on_fake, on_real = D(torch.cat([condition, fake], 1)), D(torch.cat([condition, real], 1))
    adv = sum(F.mse_loss(s[-1], torch.ones_like(s[-1])) if mode == 'lsgan' else -F.logsigmoid(s[-1]).mean() for s in on_fake)
    fm = sum((f - r.detach()).abs().mean() for a, b in zip(on_fake, on_real) for f, r in zip(a[:-1], b[:-1]))
    terms, total = dict(adv=adv, fm=fm), cfg.lambda_adv*adv + cfg.lambda_fm*fm
    if perceptual is not None:
        terms['vgg'] = sum(w*(f - r).abs().mean() for w, f, r in zip((1/32, 1/16, 1/8, 1/4, 1), perceptual(fake), perceptual(real)))
        total = total + cfg.lambda_vgg*terms['vgg']
    return {**terms, 'total': total}


def assert_close_gradients(mine, plain):
    for (name, g), p in zip(mine.items(), plain.values(), strict=True):
        assert p.abs().max() > 0, f'{name}: the plain gradient is zero, so nothing is compared'
        assert (g - p).abs().max() <= 1e-5*p.abs().max(), f'{name}: {(g - p).abs().max()/p.abs().max():.2g} of the largest'


def gradients(net): return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.filterwarnings('ignore:Perception. VGG19 has random weights')
@pytest.mark.parametrize('mode', ['lsgan', 'vanilla'])
@pytest.mark.parametrize('smooth', [1., 0.])
@pytest.mark.parametrize('perceptual', ['none', 'random'])
def test_step_is_the_plain_one(mode, smooth, perceptual):
    "Term by term and gradient by gradient, in float64, so that 1e-5 leaves no room for another formula."
    cfg = tiny(gan_loss=mode, lambda_smooth=smooth, perceptual=perceptual, d_filters=8, condition='tree')
    model = RetiGAN(cfg).double().train()
    G, D = model.G, model.D
    with torch.no_grad():
        for p in model.parameters(): p.mul_(5)           # away from the flat start
    rng = torch.Generator().manual_seed(3)
    condition, real = (torch.rand(2, 1, 32, 32, generator=rng) < .2).double(), torch.rand(2, 3, 32, 32, generator=rng).double()*2 - 1
    smoothed = smooth_edges(real.float()).double() if smooth else None
    loss_g, loss_d = (loss.double() for loss in make_losses(cfg))
    look_at = loss_g.perceptual.perception if perceptual == 'random' else None

    fake = G(condition)
    plain_d = plain_terms_d(D, condition, fake, real, smoothed, mode)
    plain_g = plain_terms_g(D, condition, fake, real, mode, cfg, look_at)
    plain_g['total'].backward()
    plain_grads_g = gradients(G)
    D.zero_grad()
    plain_d['total'].backward()
    plain_grads_d = gradients(D)

    model.zero_grad()
    look = Look(G, D, condition, real)
    terms_g = step_g(look, loss_g)
    assert all(p.grad is None for p in D.parameters()), "the generator's step left gradients in D"
    mine_g = gradients(G)
    terms_d = step_d(look, D, list(D.parameters()), loss_d, smoothed)
    assert all(torch.equal(p.grad, mine_g[name]) for name, p in G.named_parameters()), "the discriminator's step changed the gradients of G"
    for mine, plain in ((terms_g, plain_g), (terms_d, plain_d)):
        assert mine.keys() == plain.keys()
        for name, value in mine.items(): assert abs(value - plain[name].detach()) <= 1e-5*abs(plain[name].detach()), name
    assert_close_gradients(mine_g, plain_grads_g)
    assert_close_gradients(gradients(D), plain_grads_d)


def test_trainer_takes_the_plain_step(eyes):
    "The whole of one step in float32, Adam's too: the weights after it, beside two Adams of pix2pixHD's loop."
    cfg, seen = tiny(steps=1), []
    trainer = Trainer(cfg, cpu=True)
    real_step = trainer._train_step
    trainer._train_step = lambda parts: (seen.extend(parts), real_step(parts))[1]
    trainer.fit(eyes, **QUIET)
    [batch] = seen
    model = RetiGAN(cfg).train()
    adams = [torch.optim.Adam(net.parameters(), cfg.lr, betas=(.5, .999)) for net in (model.G, model.D)]
    condition, real = torch.cat([batch['vessels'], batch['fov']], 1), batch['image']
    fake = model.G(condition)
    plain_d = plain_terms_d(model.D, condition, fake, real, smooth_edges(real, fov=batch['fov']), cfg.gan_loss)
    plain_terms_g(model.D, condition, fake, real, cfg.gan_loss, cfg, None)['total'].backward()
    adams[0].step()
    model.D.zero_grad()
    plain_d['total'].backward()
    adams[1].step()
    start = RetiGAN(cfg).state_dict()
    for name, mine in trainer.model.state_dict().items():
        plain, moved = model.state_dict()[name], (mine - start[name]).abs()
        assert .9*cfg.lr < moved.max() < 1.1*cfg.lr, name
        far = ((mine - plain).abs() > .02*cfg.lr).float().mean()      # Adam's first step is the sign, which rounding can turn where a gradient is nothing
        assert far < .01, f'{name}: {far:.3f} of the weights went another way'


# Two processes

PAIR = f'''
import json, sys, time, torch
torch.set_num_threads(1)
from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
from retigan.train import Callback, Trainer
from safetensors.torch import save_file
out, kept = sys.argv[1], {{}}
for accumulate, batch in ((1, 2), (2, 4)):
    trainer = Trainer(RetiGANConfig(**{{**{TINY}, 'steps': 3, 'batch_size': batch, 'lambda_smooth': 1.}}), cpu=True, accumulate=accumulate)
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    real, steps = trainer.optimiser.step, []
    def step(*args):
        if trainer.accelerator.sync_gradients:
            steps.append(1)
            for name, p in trainer.model.named_parameters(): kept[f'{{accumulate}}.grad{{len(steps)}}.{{name}}'] = p.grad.clone()
        return real(*args)
    trainer.optimiser.step = step
    class Seen(Callback):
        def saved(self, t, folder): print('saved', rank, flush=True)
    if rank: time.sleep(1.5)                            # the other one has made the folder by now
    trainer.fit(SimulatedEyes(4, 64, seed=5), run=f'{{out}}/run{{accumulate}}', save_every=2, callbacks=[Seen()], **{QUIET})
    kept |= {{f'{{accumulate}}.after.{{k}}': v for k, v in trainer.model.state_dict().items()}}
save_file({{k: v.contiguous() for k, v in kept.items()}}, f'{{out}}/{{rank}}.safetensors')
print('processes', world, flush=True)
'''


def pair(folder, code, world=2):
    "The code in `world` processes that know of each other; returns what each printed."
    folder.mkdir(exist_ok=True)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    known = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME='lo')
    processes = [python(code, folder, **(known | dict(RANK=str(r), LOCAL_RANK=str(r)) if world > 1 else {})) for r in range(world)]
    try: return [finished(p) for p in processes]
    finally:
        for p in processes: p.kill()


def test_two_processes_take_the_steps_of_one(tmp_path):
    "The same batches, in two halves: the gradients of the first step, and the weights after three."
    from safetensors.torch import load_file
    said, (alone,) = pair(tmp_path/'two', PAIR), pair(tmp_path/'one', PAIR, 1)
    assert all('processes 2' in words for words in said) and 'processes 1' in alone
    assert said[0].count('saved 0') == 4 and 'saved' not in said[1], 'only the main process writes'
    one, first, second = (load_file(tmp_path/name) for name in ('one/0.safetensors', 'two/0.safetensors', 'two/1.safetensors'))
    assert first.keys() == one.keys() and len(one) > 100
    for name, t in first.items():
        assert torch.equal(t, second[name]), f'{name}: the two processes differ'
        if 'grad1' in name:
            assert one[name].abs().max() > 0
            assert (t - one[name]).abs().max() <= 1e-4*one[name].abs().max(), f'{name}: {(t - one[name]).abs().max()/one[name].abs().max():.2g}'
        if '.after.' in name: assert ((t - one[name]).abs() > .05*2e-4).float().mean() < .02 and (t - one[name]).abs().max() < 6.1e-4, name
    for accumulate in (1, 2):
        assert steps_kept(tmp_path/f'two/run{accumulate}') == [2, 3] and len(read_metrics(tmp_path/f'two/run{accumulate}/metrics.csv')) == 3


# From another thread

def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(.005)


def test_pause_save_and_stop_from_another_thread(eyes, tmp_path):
    trainer, steps = Trainer(tiny(steps=5000), cpu=True), []
    class Watch(Callback):
        def after_step(self, t): steps.append(t.step)
    raised = []
    def work():
        try: trainer.fit(eyes, run=tmp_path/'run', save_every=5000, callbacks=[Watch()], **QUIET)
        except BaseException as error: raised.append(error)
    torch.set_num_threads(1)
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(steps) >= 3)
    trainer.pause()
    until(lambda: trainer.state == 'paused')
    held = len(steps)
    time.sleep(.4)
    assert len(steps) == held and trainer.state == 'paused'
    trainer.save()                                       # while it holds
    until(lambda: steps_kept(tmp_path/'run') == [held])
    assert len(steps) == held
    trainer.proceed()
    until(lambda: len(steps) >= held + 3)
    trainer.save()                                       # while it runs
    until(lambda: len(steps_kept(tmp_path/'run')) == 2)
    trainer.pause()
    until(lambda: trainer.state == 'paused')
    trainer.stop()                                       # while it holds
    thread.join(60)
    assert not thread.is_alive() and not raised and trainer.state == 'stopped'
    assert steps == list(range(1, len(steps) + 1)) and steps_kept(tmp_path/'run')[-1] == len(steps) == trainer.step
    again = trained(eyes, tmp_path/'run', tiny(steps=5000), resume=True, until=trainer.step + 2)
    assert again.step == trainer.step + 2


def test_an_error_in_a_callback_ends_the_run_and_keeps_what_was_saved(eyes, tmp_path):
    class Breaks(Callback):
        def after_step(self, t):
            if t.step == 5: raise RuntimeError('the screen is gone')
    trainer = Trainer(tiny(), cpu=True)
    with pytest.raises(RuntimeError, match='screen'): trainer.fit(eyes, run=tmp_path/'run', save_every=2, callbacks=[Breaks()], **QUIET)
    assert trainer.state == 'failed' and steps_kept(tmp_path/'run') == [2, 4]
    trained(eyes, tmp_path/'run', resume=True, save_every=2)
    trained(eyes, tmp_path/'whole', save_every=2)
    assert_same_run(tmp_path/'whole', tmp_path/'run')
