"""benchmarks/ablations.py and benchmarks/evidence.py on tiny networks: variants are what they say, runs go on, figures are compared."""
import importlib
import json
import shutil
import sys

import pytest
from notebooks import ROOT

from retigan import cli
from retigan.model import RetiGANConfig
from retigan.simulate import write_eyes

TINY = dict(filters=8, d_filters=8, n_bottle=1, ema=.9)
NAMES = ['base', 'no-perceptual', 'one-scale', 'three-scales', 'shared-D', 'enhancer', 'shuffle']
SMALL = '--data simulated --size 32 --steps 2 --eyes 3 --trees 4 --cpu --only'.split() + NAMES


@pytest.fixture
def script(monkeypatch):
    "A script as a module; it imports its neighbours."
    monkeypatch.syspath_prepend(str(ROOT/'benchmarks'))
    monkeypatch.setenv('TQDM_DISABLE', '1')
    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)
    return load


@pytest.fixture
def ablations(script, monkeypatch):
    module = script('ablations')
    monkeypatch.setattr(module, 'BASE', TINY)
    return module


def test_variants_are_what_they_say(ablations, tmp_path, monkeypatch):
    args = ['--runs', str(tmp_path), *SMALL]
    train_one, made = ablations.train_one, []
    def stopped(variant, *rest):
        if len(made) == 2: raise KeyboardInterrupt
        made.append(variant)
        return train_one(variant, *rest)
    monkeypatch.setattr(ablations, 'train_one', stopped)
    with pytest.raises(KeyboardInterrupt): ablations.main([*args, '--seeds', '1'])
    top = tmp_path/'simulated_32'
    first = {f: f.read_bytes() for f in top.rglob('*.*')}
    assert made == NAMES[:2] and len({f.parent for f in first}) == 2

    monkeypatch.setattr(ablations, 'train_one', train_one)
    ablations.main([*args, '--seeds', '1'])
    assert all(f.read_bytes() == data for f, data in first.items())              # what was there is not made again
    found = {name: json.loads((top/f'{name}_0'/'figures.json').read_text()) for name in NAMES}
    d, g = ({name: row[part] for name, row in found.items()} for part in ('discriminator', 'generator'))
    assert d['base'] == 2*d['one-scale'] == 2*d['shared-D'] and d['three-scales'] == 3*d['one-scale']
    assert g['enhancer'] != g['base'] and g['shuffle'] > g['base'] == g['shared-D']
    head = {name: (top/f'{name}_0'/'metrics.csv').read_text().splitlines()[0].split(',') for name in NAMES}
    assert 'g_vgg' in head['base'] and 'g_vgg' not in head['no-perceptual']

    pictures = {name: [f.read_bytes() for f in sorted((top/f'{name}_0').glob('[0-9]*.png'))] for name in NAMES}
    assert all(len(p) == 4 for p in pictures.values()) and len({p[0] for p in pictures.values()}) == len(NAMES)
    again = tmp_path/'again'
    ablations.main(['--runs', str(again), *SMALL[:-len(NAMES)], 'base', '--seeds', '1'])
    assert [f.read_bytes() for f in sorted((again/'simulated_32'/'base_0').glob('[0-9]*.png'))] == pictures['base']      # same seed, same bytes

    out = tmp_path/'table.md'
    ablations.main([*args, '--report', '--out', str(out)])
    rows = json.loads(out.with_suffix('.json').read_text())
    assert list(rows) == [name for name in ablations.VARIANTS if name in NAMES] and out.with_suffix('.jpg').is_file()
    assert all(f'| `{name}`: ' in out.read_text(encoding='utf-8') for name in NAMES)
    kept = top/'base_0'/'measures.json'
    said = json.loads(kept.read_text())
    for by, ssim in ((said['by'], 9.), ('another judge', said['ssim'])):           # kept figures count for the judge that gave them
        kept.write_text(json.dumps({**said, 'ssim': 9., 'by': by}))
        ablations.main([*args, '--report', '--out', str(out)])
        assert json.loads(out.with_suffix('.json').read_text())['base'][0]['ssim'] == ssim
    shutil.rmtree(top/'base_0')
    with pytest.raises(SystemExit, match='no finished run of base'): ablations.main([*args, '--report', '--out', str(out)])


def test_every_variant_has_a_config(ablations):
    class args: preset, size, steps = None, 32, 2
    configs = {name: ablations.config_of(name, args, 3) for name in ablations.VARIANTS}
    assert all(isinstance(c, RetiGANConfig) and c.seed == 3 for c in configs.values())
    changed = {name: c for name, c in configs.items() if ablations.VARIANTS[name].changes}
    assert len({str(c) for c in changed.values()} | {str(configs['base'])}) == len(changed) + 1       # no change is the default


@pytest.mark.parametrize('values, bold', [((1., 2., 3.), False), ((2.9, 4., 5.), False), ((3.1, 4., 5.), True), ((.1, .2, .9), True), ((5., 6.), False)])
def test_bold_needs_three_seeds_on_one_side(ablations, values, bold):
    base = [dict(x=v) for v in (1., 2., 3.)]
    assert ablations.cell([dict(x=v) for v in values], base, 'x', 2).startswith('**') == bold
    assert not ablations.cell(base, base, 'x', 2).startswith('**')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "The run of a stranger: three steps of the demo."
    top = tmp_path_factory.mktemp('evidence')
    write_eyes(top/'eyes', 14, 96, seed=3)                                       # 10 to learn from, 4 to judge by
    cli.train(data=str(top/'eyes'), out=str(top/'runs'/'seeds'/'0'), steps=3, device='cpu')
    return top


def test_writes_and_compares(script, runs, capsys, monkeypatch):
    evidence, (kept, given) = script('evidence'), (runs/'results', ['--runs', str(runs/'runs'), '--results', str(runs/'results')])
    monkeypatch.delenv('RETIGAN_DATA', raising=False)
    kept.mkdir()
    evidence.main(given)
    said = capsys.readouterr().out
    assert 'seeds: written' in said and 'drive: left alone' in said and 'usefulness: left alone' in said
    assert sorted(f.name for f in kept.iterdir()) == ['seeds.json', 'seeds.md']
    text = (kept/'seeds.json').read_text()
    for f in (runs/'runs'/'seeds'/'0').glob('report.*'): f.unlink()              # so that the check measures, and does not read
    with pytest.raises(SystemExit) as stop: evidence.main([*given, '--check'])
    assert stop.value.code == 0 and 'seeds: 9 figures made again, 0 differ' in capsys.readouterr().out

    rows = json.loads(text)
    rows[0]['SSIM'] += .001
    (kept/'seeds.json').write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as stop: evidence.main([*given, '--check'])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert '1 differ' in said and 'seed 0/SSIM' in said
    assert json.loads((kept/'seeds.json').read_text()) == rows                   # a check writes nothing
    with pytest.raises(SystemExit, match='nothing was compared'): evidence.main(['--runs', str(runs/'none'), '--results', str(kept), '--check'])
    with pytest.raises(SystemExit, match='expected some of'): evidence.main([*given, '--only', 'sedes'])


def test_figures_stand_under_seed_and_condition(script):
    evidence = script('evidence')
    kept = dict(base=[dict(seed=0, dice=.5, machine='a'), dict(seed=1, dice=.6, machine='a')], rows=[dict(kind='real', k=1, seed=0, auc=.9)], sizes=[1, 2])
    made = dict(base=[dict(seed=1, dice=.7, machine='b')], rows=[dict(kind='real', k=1, seed=0, auc=.9), dict(kind='real', k=3, seed=0, auc=.9)])
    assert evidence.compare(kept, made) == (2, ['base/seed 1/dice: 0.6 in results/, now 0.7'])
    assert evidence.figures(kept)['sizes/1'] == 2 and not [k for k in evidence.figures(kept) if 'machine' in k]
