"""Pairs in any number: killed, shared, taken over, refused, made again."""
import hashlib
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from retigan import synthesis
from retigan.datasets import DatasetError, open_dataset
from retigan.images import save_image, save_mask
from retigan.model import RetiGAN, RetiGANConfig
from retigan.segment import list_photographs
from retigan.synthesis import Claim, SimulatedTrees, TreeFiles, read_pairs, remake, write_pairs

N, BLOCK = 18, 4
posix = pytest.mark.skipif(os.name != 'posix', reason='kills processes and starts them from one that holds the package already')


def small():
    return RetiGAN.from_config(RetiGANConfig(size=32, filters=4, n_bottle=1, d_filters=4, seed=3), discriminator=False)


def work(out, report=None):
    "What a process does, in the tests as from the shell."
    torch.set_num_threads(1)
    done = write_pairs(small(), out, SimulatedTrees(N, 32, seed=100), 'small', block=BLOCK)
    if report: report.put(done)


def digests(out):
    "Every file but those that are being written."
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.rglob('*'))
            if f.is_file() and f.name[0] != '.' and f.suffix != '.lock'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'pairs'
    work(out)
    return out


@pytest.fixture(scope='module')
def start():
    "Start `work` in a process that has the package already, which is quicker than one from nothing."
    context = get_context('forkserver')
    context.set_forkserver_preload(['retigan.synthesis'])
    def go(*args):
        p = context.Process(target=work, args=args)
        p.start()
        return p
    go.context = context
    return go


@posix
def test_killed_five_times_and_finished(whole, start, tmp_path):
    "kill -9 at random moments: no half file at any of them, and in the end the bytes of the set that nothing disturbed."
    draw, out, wanted, unfinished = random.Random(5), tmp_path/'pairs', digests(whole), 0
    for _ in range(5):
        p = start(out)
        stop = time.monotonic() + 20
        while not (out/'images').exists() and time.monotonic() < stop: time.sleep(.005)
        time.sleep(draw.uniform(0, .5))
        os.kill(p.pid, signal.SIGKILL)
        p.join()
        now = digests(out)
        assert all(wanted[name] == digest for name, digest in now.items()), 'a file is half or other'
        unfinished += now != wanted
    assert unfinished >= 3, 'the kills came too late to try anything'
    p = start(out)
    p.join(120)
    assert p.exitcode == 0 and digests(out) == wanted
    assert not list(out.rglob('*.lock'))
    assert len(open_dataset(out)) == N


@posix
def test_two_processes_share_the_work(whole, start, tmp_path):
    out, reports = tmp_path/'pairs', start.context.SimpleQueue()
    both = [start(out, reports) for _ in range(2)]
    for p in both: p.join(120)
    assert [p.exitcode for p in both] == [0, 0]
    painted = [reports.get()['painted'] for _ in both]
    assert sum(painted) == N and min(painted) >= 1, painted
    assert [r['name'] for r in read_pairs(out, verify=True)] == [f'{i:05}' for i in range(100, 100 + N)]
    assert digests(out) == digests(whole)
    assert not [f for f in out.rglob('*') if f.name[0] == '.' or f.suffix == '.lock']


def test_a_claim_of_the_dead_is_taken_over_and_one_of_the_living_is_not(whole, tmp_path):
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    lock = tmp_path/'00000.lock'

    def leave(age, host, pid):
        lock.write_text(json.dumps(dict(host=host, pid=pid, token='x')))
        os.utime(lock, (time.time() - age,)*2)
        claim = Claim.take(lock, stale=300)
        if claim: claim.release()
        return claim is not None

    here = platform.node()
    assert leave(400, 'elsewhere', 1) and not leave(200, 'elsewhere', 1)
    assert leave(400, here, os.getpid()) and not leave(0, here, os.getpid())
    if os.name == 'posix': assert leave(0, here, gone.pid)


def test_a_dead_claim_is_won_by_one(tmp_path, monkeypatch):
    "Six see that a claim is dead before any of them acts, then act one after the other: the slower ones must not take the new claim of the first."
    lock, judged, turns, first = tmp_path/'0.lock', threading.Barrier(7), [threading.Event() for _ in range(6)], threading.local()
    lock.write_text(json.dumps(dict(host='elsewhere', pid=1, token='x')))
    os.utime(lock, (time.time() - 1000,)*2)
    plain, won = synthesis._abandoned, [None]*6

    def abandoned(path, stale):
        dead = plain(path, stale)
        if not hasattr(first, 'over'):
            first.over = True
            assert dead
            judged.wait(20)
            turns[first.number].wait(20)
        return dead

    def take(i):
        first.number = i
        won[i] = Claim.take(lock)

    monkeypatch.setattr(synthesis, '_abandoned', abandoned)
    threads = [threading.Thread(target=take, args=(i,)) for i in range(6)]
    for t in threads: t.start()
    judged.wait(20)
    for turn, t in zip(turns, threads):
        turn.set()
        t.join(20)
    assert [c is not None for c in won] == [True] + [False]*5
    assert won[0].held()
    won[0].release()
    assert not list(tmp_path.iterdir())


def test_a_takeover_that_was_killed_does_not_block_for_good(tmp_path):
    lock, guard = tmp_path/'0.lock', tmp_path/'.0.lock.takeover'
    for f in (lock, guard):
        f.write_text('{"host": "elsewhere", "pid": 1}')
        os.utime(f, (time.time() - 1000,)*2)
    assert Claim.take(lock) is None and not guard.exists()
    claim = Claim.take(lock)
    assert claim.held()
    claim.release()


def test_a_holder_who_was_taken_for_dead_leaves_the_block(tmp_path):
    "Its claim is replaced in the middle of a block: it paints no further there, and the set still becomes whole."
    out = tmp_path/'pairs'

    class Robbed(SimulatedTrees):
        robbed, read_ids = False, []
        def read(self, i):
            self.read_ids.append(i)
            if i == 1 and not self.robbed and (lock := out/'blocks/00000.lock').exists():
                lock.write_text(json.dumps(dict(host='elsewhere', pid=1, token='y')))
                os.utime(lock, (time.time() - 1000,)*2)
                self.robbed = True
            return super().read(i)

    trees = Robbed(3, 32, seed=100)
    write_pairs(small(), out, trees, block=3)
    assert trees.robbed and trees.read_ids == [0, 0, 1, 0, 1, 2], trees.read_ids       # the first is the look before the folder is made
    assert len(read_pairs(out, verify=True)) == 3


@pytest.mark.parametrize('change, said', [(dict(n=N + 1), 'n: 18 there, 19 now'), (dict(seed=0), 'seed: 100 there, 0 now'), (dict(size=64), 'size: 32 there, 64 now'),
                                          (dict(block=5), 'block: 4 there, 5 now'), (dict(weights=4), 'weights_sha256: ')])
def test_other_settings_are_refused_by_name(whole, change, said):
    o = {**dict(n=N, seed=100, size=32, block=BLOCK, weights=3), **change}
    model, before = small(), digests(whole)
    if o['weights'] != 3:
        with torch.no_grad(): next(model.G.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match=said): write_pairs(model, whole, SimulatedTrees(o['n'], o['size'], o['seed']), block=o['block'])
    assert digests(whole) == before


def test_any_pair_again(whole, tmp_path):
    for r in read_pairs(whole)[::7]:
        file = save_image(remake(whole, r['name'], small()).image, tmp_path/'again.png')
        assert hashlib.sha256(file.read_bytes()).hexdigest() == r['sha256']
    with pytest.raises(ValueError, match='other weights'): remake(whole, '00100', RetiGAN.from_config('demo', discriminator=False))


def test_pairs_json_has_what_the_records_have(whole):
    pairs = json.loads((whole/'pairs.json').read_text())
    assert pairs['pairs'] == read_pairs(whole) and pairs['weights'] == 'small' and pairs['config'] == small().config.to_dict()


def bad_masks(folder):
    "Six mask files, of which three are bad: no image, all black, broken off; the first is among them."
    folder.mkdir()
    for i in range(6): save_mask(SimulatedTrees(1, 32, i).read(0)[0], folder/f'{i}.png')
    whole = {f.stem: f.read_bytes() for f in folder.iterdir()}
    (folder/'0.png').write_text('no image')
    save_mask(torch.zeros(1, 32, 32), folder/'3.png')
    (folder/'4.png').write_bytes(whole['4'][:60])
    return whole


def test_bad_masks_are_left_out_and_named_and_the_rest_is_written(tmp_path):
    whole, out = bad_masks(tmp_path/'trees'), tmp_path/'pairs'
    def go(out=out): return write_pairs(small(), out, TreeFiles(list_photographs(tmp_path/'trees')), block=4)
    for _ in range(2):                                                                # the second time paints nothing and says the same
        with pytest.raises(DatasetError, match='3 of 6 pairs are there, 3 left out') as e: go()
        assert all(f'{name}.png' in str(e.value) for name in '034')
        assert sorted(json.loads((out/'left_out.json').read_text())) == ['0', '3', '4']
        assert [r['name'] for r in read_pairs(out, verify=True)] == ['1', '2', '5'] == [r['name'] for r in json.loads((out/'pairs.json').read_text())['pairs']]
        assert len(open_dataset(out)) == 3 and not list(out.rglob('*.lock'))
    before = digests(out/'images')
    (tmp_path/'trees/4.png').write_bytes(whole['4'])                                  # mended one by one: only it is painted
    with pytest.raises(DatasetError, match='4 of 6 pairs are there, 2 left out'): go()
    for name in '03': (tmp_path/f'trees/{name}.png').write_bytes(whole[name])
    assert {k: v for k, v in go().items() if k != 'seconds'} == dict(painted=2, there=4)
    assert not (out/'left_out.json').exists() and not list(out.rglob('*.left.json'))
    assert before.items() <= digests(out/'images').items()
    go(tmp_path/'at_once')
    assert digests(out) == digests(tmp_path/'at_once')


def test_no_mask_at_all_and_a_wrong_tile_leave_no_folder(tmp_path):
    bad_masks(tmp_path/'trees')
    files = list_photographs(tmp_path/'trees')
    with pytest.raises(DatasetError, match='none of 2 trees'): write_pairs(small(), tmp_path/'pairs', TreeFiles({k: files[k] for k in '03'}))
    with pytest.raises(ValueError, match='tile'): write_pairs(small(), tmp_path/'pairs', TreeFiles(files), tile=-1)
    assert not (tmp_path/'pairs').exists()


def test_the_heart_goes_on_after_a_read_that_fails(tmp_path, monkeypatch):
    fails, plain = threading.Event(), Claim.held
    def held(self):
        if not fails.is_set():
            fails.set()
            raise OSError('the disk is away')
        return plain(self)
    monkeypatch.setattr(Claim, 'held', held)
    lock = tmp_path/'00000.lock'
    claim = Claim.take(lock, stale=1.)
    assert fails.wait(20)
    os.utime(lock, (0, 0))
    stop = time.monotonic() + 20
    while lock.stat().st_mtime == 0 and time.monotonic() < stop: time.sleep(.02)
    assert lock.stat().st_mtime > 0
    claim.release()


@pytest.mark.parametrize('part', ['images', 'masks', 'fov'])
@pytest.mark.parametrize('old', [False, True])
def test_verify_finds_lost_and_broken_files(tmp_path, part, old):
    out = tmp_path/'pairs'
    write_pairs(small(), out, SimulatedTrees(2, 32), block=2)
    if old:                                                                           # records as they were before masks had digests
        block = out/'blocks/00000.jsonl'
        lines = [{k: v for k, v in json.loads(line).items() if k not in ('mask_sha256', 'fov_sha256')} for line in block.read_text().splitlines()]
        block.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    file, other = (out/f'{part}/0000{i}.png' for i in range(2))
    whole = file.read_bytes()
    assert len(read_pairs(out, verify=True)) == 2
    file.write_bytes(whole[:60])
    with pytest.raises(DatasetError, match=f'missing or changed: {part}/00000.png'): read_pairs(out, verify=True)
    file.unlink()
    with pytest.raises(DatasetError, match=f'missing or changed: {part}/00000.png'): read_pairs(out, verify=True)
    file.write_bytes(whole)
    if not old and other.read_bytes() != whole:
        file.write_bytes(other.read_bytes())
        other.write_bytes(whole)
        with pytest.raises(DatasetError, match='2 files are missing or changed'): read_pairs(out, verify=True)


def test_solutions_are_the_code_that_is_run():
    cells = json.loads((Path(__file__).parents[1]/'nbs/12_synthesis.ipynb').read_text(encoding='utf-8'))['cells']
    text = {kind: [''.join(c['source']) for c in cells if c['cell_type'] == kind] for kind in ('markdown', 'code')}
    solutions = [code for t in text['markdown'] for code in re.findall(r'<summary>Solution</summary>\s*```python\n(.*?)\n```', t, re.S)]
    assert len(solutions) == 3
    for code in solutions: assert any(code in c for c in text['code']), code
