"""benchmarks/usefulness.py on simulated eyes and tiny networks: it goes on where it stopped, minds its settings, and reports what is there."""
import json
import sys
from pathlib import Path

import pytest
import torch

from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
from retigan.simulate import write_eyes
from retigan.train import Trainer

SMALL = '--data eyes --size 32 --pairs 3 --steps 2 --batch 2 --patch 16 --widths 4 8 --seeds 2 --own 3'.split()


@pytest.fixture
def useful(monkeypatch):
    "The script as a module; it imports its neighbour."
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent/'benchmarks'))
    monkeypatch.setenv('TQDM_DISABLE', '1')
    monkeypatch.delitem(sys.modules, 'usefulness', raising=False)
    import usefulness
    return usefulness


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Simulated eyes in a dataset's place, and the runs of two painters that differ in their weights alone."
    top = tmp_path_factory.mktemp('useful')
    write_eyes(top/'eyes', 7, 64, seed=5)
    config = dict(size=32, filters=4, n_bottle=1, d_filters=4, perceptual='none', batch_size=2, n_dim=2, steps=1)
    for name, first in (('run', 5), ('other', 50)): Trainer(RetiGANConfig(**config)).fit(SimulatedEyes(3, 64, seed=first), run=top/name, progress=False)
    return top


def test_trains_resumes_refuses_and_reports(useful, folder, monkeypatch, tmp_path):
    monkeypatch.setenv('RETIGAN_DATA', str(folder))
    words = ['--run', str(folder/'run'), '--work', str(tmp_path/'work'), *SMALL]
    made, one = [], useful.one
    def noted(args, kind, k, seed, *rest):
        if len(made) == 4: raise KeyboardInterrupt
        made.append((seed, kind, k))
        return one(args, kind, k, seed, *rest)
    monkeypatch.setattr(useful, 'one', noted)
    with pytest.raises(KeyboardInterrupt): useful.main(words)
    assert len(list((tmp_path/'work').glob('*_*_*.json'))) == 4                  # what was finished is kept
    first = {f: f.read_bytes() for f in (tmp_path/'work').glob('*.json')}

    out = tmp_path/'early.md'
    useful.main(['--report', '--work', str(tmp_path/'work'), '--out', str(out)])
    assert len(json.loads(out.with_suffix('.json').read_text())['rows']) == 4    # a report of what there is, other curves left out

    monkeypatch.setattr(useful, 'one', one)
    useful.main(words)
    for f, text in first.items(): assert f.read_bytes() == text                  # nothing is made twice
    rows = [json.loads(f.read_text()) for f in (tmp_path/'work').glob('*_*_*.json')]
    conditions = useful.conditions(5, own=[3])
    assert {(r['seed'], r['kind'], r['k']) for r in rows} == {(s, *c) for s in range(2) for c in conditions}
    assert made == [(0, *c) for c in conditions[:4]]                             # seed 0 of everything comes first
    assert {(r['trained'], r['tested']) for r in rows} == {(5, 2)}
    assert not list((tmp_path/'work').glob('*.part'))

    monkeypatch.setattr(useful, 'one', noted)                                    # would stop at the first one made again
    useful.main(words)
    with pytest.raises(SystemExit, match='other settings.*steps'): useful.main([*words, '--steps', '3'])
    with pytest.raises(SystemExit, match='other settings.*weights'): useful.main([*words, '--run', str(folder/'other')])

    for seed in range(2):                                                        # their painters saw these three photographs, as their run says
        own = json.loads((tmp_path/'work'/'painters'/f'3_{seed}'/'config.json').read_text())
        assert own['data']['samples'] == 3 and own['config']['seed'] == seed

    texts = []
    for name in ('a', 'b'):
        out = tmp_path/name/'report.md'
        out.parent.mkdir()
        useful.main(['--report', '--work', str(tmp_path/'work'), '--out', str(out)])
        texts.append([out.with_suffix(s).read_bytes() for s in ('.json', '.png')] + [out.read_text().replace(str(out), '')])
    assert texts[0] == texts[1]
    table = [line for line in texts[0][2].splitlines() if line.startswith('|') and line.count('±') == 3]
    assert len(table) == len(conditions)
    assert ' --own 3 ' in texts[0][2].splitlines()[2]
    for kind, k in conditions:
        dice = [r['dice'] for r in rows if (r['kind'], r['k']) == (kind, k)]
        start = f'| {({**useful.ALONE, **useful.KINDS})[kind]} | {k or "-"} | 2 | {sum(dice)/2:.3f} ± '
        assert sum(line.startswith(start) for line in table) == 1, start


def test_half_of_the_patches_from_each_kind_and_nested_photographs(useful):
    real, made = [f'r{i}' for i in range(20)], dict(painted=[f'p{i}' for i in range(100)])
    before = set()
    for k in useful.KS:
        learn, choose = useful.to_learn_from('real+painted', k, 1, real, made)
        assert sum(s in real for s in learn)*2 == len(learn) == 200 and set(choose) < set(learn)
        assert len(set(choose)) == k and before < set(choose) and set(made['painted']) < set(learn)
        assert useful.to_learn_from('real', k, 1, real, made) == (choose, choose)     # the same photographs alone
        before = set(choose)
    assert useful.to_learn_from('real', 3, 2, real, made) != useful.to_learn_from('real', 3, 1, real, made)
    assert useful.to_learn_from('painted', 0, 1, real, made) == (made['painted'], made['painted'][:20])


def test_differences_are_taken_seed_by_seed(useful):
    def row(kind, k, seed, value): return dict(kind=kind, k=k, seed=seed, dice=value, cl_dice=value, auc=value)
    rows = [row('real', 1, 0, .5), row('real', 1, 1, .9), row('real+painted', 1, 0, .6), row('real+painted', 1, 1, .95), row('real+painted', 1, 2, .1)]
    (a, b, k, gains), = useful.differences(rows)                                # seed 2 has no partner
    assert (a, b, k) == ('k real and painted', 'k real', 1)
    torch.testing.assert_close(gains['dice'], [.1, .05])
    text = '\n'.join(useful.difference_lines(rows))
    assert '| +0.075 (+0.050 to +0.100) |' in text and 'of 1 row, higher in every seed and lower in every seed: Dice 1 and 0' in text
