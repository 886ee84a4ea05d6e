#!/usr/bin/env python3
"""Every table and figure of the evidence, again, from run folders. Trains nothing; what has no folder is named and left alone.

    RETIGAN_DATA=DIR python benchmarks/evidence.py
    RETIGAN_DATA=DIR python benchmarks/evidence.py --check      compare with results/, write nothing

Folders that are read, and the commands that make them:

    runs/drive           OMP_NUM_THREADS=1 retigan-train --preset small --data DIR/DRIVE --steps 800 --out runs/drive
    runs/seeds/0 to 4    OMP_NUM_THREADS=1 retigan-train --seed 0 --out runs/seeds/0, and so on
    runs/ablations       python benchmarks/ablations.py --data simulated; ... --data DRIVE --vgg FILE
    runs/usefulness      python benchmarks/usefulness.py --run runs/drive
    runs/usefulness_long the same with --steps 1000 --ks 5 20 --own 5 --work runs/usefulness_long

A folder that holds a report.json or a measures.json already is not measured again; remove the file to have it measured.

README shows the headline: `python tools/run_notebook.py nbs/index.ipynb && python tools/make_readme.py` takes it over.

A stranger who wants to see figures made again trains one run of a part, or a few, and asks --check: it compares what these
runs give with the same seeds and variants in results/, number by number, and exits 1 if one differs. On one thread and
the same kind of processor they are the same; another processor or number of threads adds in another order, and a GAN
makes other pictures of that.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import processor

from retigan.cli import _test_eyes
from retigan.evaluate import draw_report, evaluate, find_trees, machine_words, paint_samples, report_text, square_samples
from retigan.metrics import show_errors
from retigan.train import load_run, read_metrics, read_notes
from retigan.unet import UNet

HERE = Path(__file__).parent


def report_of(run):
    "The numbers of `retigan-evaluate RUN`, measured now if they are not there."
    if not (run/'report.json').exists():
        subprocess.run([sys.executable, '-W', 'ignore', '-c', f'from retigan.cli import evaluate; evaluate({str(run)!r})'], check=True)
    return json.loads((run/'report.json').read_text())


def painted_by(run, judge='vessels-judge'):
    "(model, pictures of its test trees, squares it learnt from, judge, name of the data)"
    model = load_run(run)
    test, learnt, label = _test_eyes(run, None, None, model.config.size, None)
    return model, paint_samples(model, test), square_samples(learnt, model.config.size), UNet.from_pretrained(judge), label


def real_run(runs, results):
    "A training on real photographs: the report, and a picture without the photographs, which are not ours to publish."
    run = runs/'drive'
    model, p, learnt, judge, label = painted_by(run)
    report = evaluate(p, judge, 'vessels-judge', learnt)
    spent = read_metrics(run/'metrics.csv')[-1]
    kept = json.loads((run/'config.json').read_text())
    report |= dict(title=f'The evidence: {label}', made=[
        f'`OMP_NUM_THREADS=1 retigan-train --preset {read_notes(run)["preset"]} --data DIR/{label} --steps {model.config.steps} --out runs/drive`, then `retigan-evaluate runs/drive`, written by '
        f'`python benchmarks/evidence.py`. {kept["data"]["samples"]} training photographs, {len(p)} test trees, one seed ({model.config.seed}), {model.config.size} px, '
        f'{spent["step"]} steps in {spent["seconds"]/60:.0f} minutes of a shared {processor()} processor; {machine_words()}.'])
    write_pair(results/f'evaluate_{label}', report, draw_report(p, report, judge, without=('true', 'nearest learnt from')))


def write_pair(stem, report, figure):
    stem.with_suffix('.json').write_text(json.dumps(report, indent=1) + '\n')
    figure.savefig(stem.with_suffix('.jpg'), dpi=80, pil_kwargs=dict(quality=85))
    stem.with_suffix('.md').write_text(report_text(report) + f'\n![Trees, what was painted, what was found in it]({stem.name}.jpg)\n', encoding='utf-8')


def pick(r):
    "What a row of a table says of a report."
    sharp, vary, near = r['sharpness'], r['variety'], next(iter(r['distances'].values()))
    return {'share of the ceiling': r['vessels']['share'], 'clDice': r['vessels']['fake']['cl_dice']['mean'], 'SSIM': r['image']['ssim']['mean'],
            'gradient energy, of true': sharp['painted']['energy']['mean']/sharp['true']['energy']['mean'],
            'edge width, of true': sharp['painted']['width']['mean']/sharp['true']['width']['mean'],
            'variety, of true': vary['painted']['distance']/vary['true']['distance'],
            'colour, of true': vary['painted']['colour']/vary['true']['colour'],
            'Fréchet': near['painted']['frechet'], 'copies': len(r['copies']['pixels']['copies'])}


def seeds(runs, results):
    "The demo, by seeds."
    folders = sorted(f for f in (runs/'seeds').iterdir() if (f/'result.json').exists())
    if not folders: raise SystemExit(f'{runs/"seeds"}: holds no finished run, expected folders of retigan-train')
    reports = [report_of(f) for f in folders]
    rows, minutes = [pick(r) for r in reports], [read_metrics(f/'metrics.csv')[-1]['seconds']/60 for f in folders]
    lines = ['# The demo by seeds', '',
             f'`OMP_NUM_THREADS=1 retigan-train --seed S --out runs/seeds/S` for S = {", ".join(f.name for f in folders)}: 1000 steps at 128 px on 200 simulated eyes, other eyes for each seed, other weights, other order; '
             f'{len(reports[0]["pictures"])} unseen trees, the same for all. {min(minutes):.0f} to {max(minutes):.0f} minutes a run, one thread of a shared {processor()} processor. {machine_words()}. '
             'Written by `python benchmarks/evidence.py`.', '',
             '| seed | ' + ' | '.join(rows[0]) + ' |', '|---'*(len(rows[0]) + 1) + '|',
             *(f'| {f.name} | ' + ' | '.join(f'{v:.3g}' for v in r.values()) + ' |' for f, r in zip(folders, rows))]
    if len(rows) > 1: lines.append('| mean ± deviation | ' + ' | '.join(f'{statistics.mean(v):.3g} ± {statistics.stdev(v):.2g}' for v in zip(*(r.values() for r in rows))) + ' |')
    worst = min(r['share of the ceiling'] for r in rows)
    lines += ['', f'The lowest share of the ceiling is {100*worst:.0f} %. A training that collapsed would show vessels lost (a share far below the others) or one picture for all trees (a variety near 0). '
              'The colour of the painted eyes does not vary for any seed: the condition says nothing of it.', '']
    (results/'seeds.md').write_text('\n'.join(lines), encoding='utf-8')
    (results/'seeds.json').write_text(json.dumps([dict(seed=f.name, **r) for f, r in zip(folders, rows)], indent=1) + '\n')


def headline(runs, results):
    "README's picture and table: the demo and the training on real photographs, by what the other parts wrote."
    by_seed = json.loads((results/'seeds.json').read_text())
    real = json.loads((results/'evaluate_DRIVE.json').read_text())
    demo = report_of(runs/'seeds'/'0')
    says = {'share of the ceiling': 'vessels found in the pictures (Dice), of true', 'gradient energy, of true': 'gradient energy, of true',
            'edge width, of true': 'width of vessel edges, of true', 'variety, of true': 'difference of two pictures, of true', 'colour, of true': 'spread of colour, of true'}
    def share(v): return f'{100*v:.0f} %'
    def seeds_say(key): return f'{share(statistics.mean(v := [r[key] for r in by_seed]))} ({share(min(v))} to {share(max(v))})'
    def distance(r): return [next(iter(r['distances'].values()))[k]['frechet'] for k in ('painted', 'halves')]
    (near, half), real_pick = distance(real), pick(real)
    half_demo = distance(demo)[1]['mean']
    lines = [f'| | `demo`, {len(by_seed)} seeds, {len(demo["pictures"])} unseen simulated trees | `small`, one seed, the {len(real["pictures"])} test trees of DRIVE |', '|---|---|---|',
             *(f'| {text} | {seeds_say(key)} | {share(real_pick[key])} |' for key, text in says.items()),
             f'| Fréchet distance to true ones (halves of the true: {half_demo:.2g}; {half["mean"]:.2g}) | {statistics.mean(r["Fréchet"] for r in by_seed):.2g} | {near:.2g} |',
             f'| copies of photographs learnt from | {sum(r["copies"] for r in by_seed)} | {real_pick["copies"]} |', '']
    (results/'headline.md').write_text('\n'.join(lines), encoding='utf-8')
    columns = [(p, judge, i) for p, judge in (painted_by(runs/n)[1:4:2] for n in ('seeds/0', 'drive')) for i in (0, 3, 6)]
    headline_picture(columns).savefig(results/'headline.jpg', dpi=110, pil_kwargs=dict(quality=88))


def headline_picture(columns):
    "A matplotlib figure: tree, painted, and what was found in the painted one; `columns` are (pictures, judge, index)."
    from matplotlib.figure import Figure
    fig = Figure(figsize=(1.5*len(columns) + .3, 4.8), layout='constrained')
    axes = fig.subplots(3, len(columns))
    for (p, judge, i), column in zip(columns, axes.T):
        found = find_trees(p.fake[i:i + 1], judge)[0] >= judge.use['threshold']
        for ax, x in zip(column, (p.vessels[i].expand(3, -1, -1), (p.fake[i] + 1)/2, show_errors(found.float(), p.vessels[i], p.fov[i])/2 + .5)):
            ax.imshow(x.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation='antialiased')
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for ax, text in zip(axes[:, 0], ('tree', 'painted', 'found')): ax.set_ylabel(text)
    for ax, text in zip(axes[0, 1::3], ('simulated trees, demo', "DRIVE's test trees, small")): ax.set_title(text, fontsize=10)
    return fig


TABLES = ['drive', 'seeds', 'ablations_simulated', 'ablations_DRIVE', 'usefulness', 'usefulness_long']      # what can be compared
NAMES = ('kind', 'k', 'seed', 'name')          # what tells one row of a list from another
CLOCK = {'processor_seconds', 'machine', 'device', 'retigan', 'torch', 'python', 'made', 'title'}       # not figures of a result


def figures(value, where=''):
    "Every value of a table's JSON by where it stands: {'base/seed 0/dice': .71}. Rows stand under their seed and condition."
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        def name(i, row): return ' '.join(f'{k} {row[k]}' for k in NAMES if k in row) or str(i)
        value = {name(i, row): {k: x for k, x in row.items() if k not in NAMES} for i, row in enumerate(value)}
    elif isinstance(value, list): value = dict(enumerate(value))
    if not isinstance(value, dict): return {where: value}
    return {k: v for key, x in value.items() if key not in CLOCK for k, v in figures(x, f'{where}/{key}' if where else str(key)).items()}


def compare(kept, made):
    "(how many figures of `made` stand in `kept`, those that differ as text)"
    a, b = figures(kept), figures(made)
    return len(a.keys() & b.keys()), [f'{k}: {a[k]} in results/, now {b[k]}' for k in b if k in a and a[k] != b[k]]


def check(results, made):
    "Say of every table that was made again whether it is what stands in `results`; the number of figures that differ. Nothing to compare is no success."
    wrong = compared = 0
    for file in sorted(made.glob('*.json')):
        n, differ = compare(json.loads((results/file.name).read_text()), json.loads(file.read_text()))
        print(f'{file.stem}: {n} figures made again, {len(differ)} differ', *differ[:20], sep='\n  ')
        wrong, compared = wrong + len(differ), compared + n
    if not compared: raise SystemExit('nothing was compared: no run is there whose figures stand in a table; --help says what makes them')
    return wrong


def table(script, *args): subprocess.run([sys.executable, '-W', 'ignore', str(HERE/script), '--report', *map(str, args)], check=True, stdout=subprocess.DEVNULL)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=Path, default=Path('runs'))
    parser.add_argument('--results', type=Path, default=HERE.parent/'results')
    parser.add_argument('--only', nargs='+', help=f'parts: {", ".join(TABLES)}, headline')
    parser.add_argument('--check', action='store_true', help='write nothing, compare with what --results holds')
    args = parser.parse_args(words)
    unknown = sorted(set(args.only or ()) - {*TABLES, *(() if args.check else ('headline',))})
    if unknown: raise SystemExit(f'--only {" ".join(unknown)}: expected some of {", ".join(TABLES)}, or, without --check, headline')
    if not args.check: return make(args.runs, args.results, args.only)
    with tempfile.TemporaryDirectory() as made:
        make(args.runs, Path(made), args.only or TABLES)
        wrong = check(args.results, Path(made))
    raise SystemExit(bool(wrong))


def make(runs, results, only=None):
    "Write the parts whose runs are there."
    real = (Path(os.environ.get('RETIGAN_DATA', ''))/'DRIVE').is_dir()
    def ablations(data): return lambda: table('ablations.py', '--data', data, '--runs', runs/'ablations', '--out', results/f'ablations_{data}.md')
    def usefulness(name): return lambda: table('usefulness.py', '--work', runs/name, '--out', results/f'{name}.md')
    parts = {'drive': (runs/'drive'/'metrics.csv', real, lambda: real_run(runs, results)),
             'seeds': (runs/'seeds', True, lambda: seeds(runs, results)),
             'ablations_simulated': (runs/'ablations'/'simulated_128', True, ablations('simulated')),
             'ablations_DRIVE': (runs/'ablations'/'DRIVE_128', real, ablations('DRIVE')),
             **{name: (runs/name/'settings.json', True, usefulness(name)) for name in ('usefulness', 'usefulness_long')},
             'headline': (runs/'drive'/'metrics.csv', real and (runs/'seeds'/'0').is_dir(), lambda: headline(runs, results))}
    for name, (needs, there, write) in parts.items():
        if only and name not in only: continue
        if not needs.exists(): print(f'{name}: left alone, {needs} is not there; --help says what makes it'); continue
        if not there: print(f'{name}: left alone, it needs RETIGAN_DATA, the folder that holds DRIVE{", and runs/seeds/0" if name == "headline" else ""}'); continue
        write()
        print(f'{name}: written', flush=True)


if __name__ == '__main__': main()
