#!/usr/bin/env python3
"""Does a segmenter learn from painted pairs? Synthetic only, k real photographs, and both; tested on real ones.

    OMP_NUM_THREADS=1 RETIGAN_DATA=DIR python benchmarks/usefulness.py --run runs/drive
    RETIGAN_DATA=DIR python benchmarks/usefulness.py --report --out results/usefulness.md

and with four times the patches, the same two lines with --steps 1000 --ks 5 20 --own 5 --work runs/usefulness_long.

--run is a folder of `retigan-train --data DIR/DRIVE`: its model paints the synthetic pictures around simulated trees. The
simulator's own pictures of the same trees are a rival that costs no training. Every condition has the same U-Net, the same
number of steps and patches; only the pictures differ. One JSON a condition and seed under --work, made once: a stopped
command goes on. --own trains painters that see the k photographs of a condition and no other, one a seed, as long as --run was
trained. --report reads these files and trains nothing.
"""
import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from machine import SIMULATOR, processor

from retigan import __version__
from retigan.datasets import FundusSample, SimulatedEyes, open_dataset
from retigan.evaluate import find_trees, paint_samples, square_samples
from retigan.metrics import best_threshold, mean_scores, vessel_scores
from retigan.segment import VesselPatches, train_unet
from retigan.train import Trainer, load_run
from retigan.unet import UNet

KS = (1, 3, 5, 10, 20)
KINDS = {'real': 'k real photographs', 'real+painted': 'k real and painted', 'real+own': 'k real and painted, by a painter of the same k',
         'real+simulator': "k real and the simulator's own"}
ALONE = {'painted': 'painted only', 'simulator': "the simulator's own only"}
SCORES = ('dice', 'cl_dice', 'auc')


def as_samples(squares, images):
    return [FundusSample(x, v, f, n, '') for x, v, f, n in zip(images, squares['vessels'], squares['fov'], squares['names'])]


def conditions(n_real, ks=KS, own=()):
    "Names in the order in which they are run: (kind, k)."
    ks = [k for k in ks if k <= n_real]
    return [('painted', 0), ('simulator', 0), *((kind, k) for kind in ('real', 'real+painted') for k in ks), *(('real+simulator', k) for k in ks if k in (1, 5, 20)),
            *(('real+own', k) for k in own if k < n_real)]


def synthetic(args, model):
    "Painted pictures and the simulator's own, of the same trees."
    p = paint_samples(model, SimulatedEyes(args.pairs, 2*args.size, 3_000_000), args.size, progress=True)
    squares = dict(vessels=p.vessels, fov=p.fov, names=p.names)
    return dict(painted=as_samples(squares, p.fake), simulator=as_samples(squares, p.real))


def chosen(n, k, seed):
    "Which k of n photographs a seed stands for; fewer of them are the first of more."
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()[:k]


def own_painter(args, config, train, k, seed):
    "A painter of the same config that sees the k photographs of a condition and no other; a stopped training goes on."
    run = Path(args.work)/'painters'/f'{k}_{seed}'
    Trainer(replace(config, seed=seed)).fit([train[i] for i in chosen(len(train), k, seed)], run=run, resume=True, progress=False)
    return load_run(run)


def to_learn_from(kind, k, seed, real, made):
    "The samples of a condition, and those that its threshold is chosen on; where there are two kinds, each gives half of all patches."
    mine = [real[i] for i in chosen(len(real), k, seed)]
    other = made.get(kind.split('+')[-1], [])
    if not mine: return other, other[:20]
    if not other: return mine, mine
    n = max(len(mine), len(other))
    return [s for i in range(n) for s in (mine[i % len(mine)], other[i % len(other)])], mine


def judged(net, samples):
    real = torch.stack([s.image for s in samples])
    return find_trees(real, net), [s.vessels for s in samples], [s.fov for s in samples]


def one(args, kind, k, seed, real, test, made):
    "Train and test one condition."
    learn, choose = to_learn_from(kind, k, seed, real, made)
    torch.manual_seed(seed)
    net = UNet((3, *args.widths))
    begin = time.process_time()
    train_unet(net, VesselPatches(learn, args.steps*args.batch, args.patch, seed, light=.7), steps=args.steps, batch_size=args.batch, progress=False)
    spent = time.process_time() - begin
    threshold = best_threshold(*judged(net, choose))
    rows = [vessel_scores(q, v, f, threshold) for q, v, f in zip(*judged(net, test))]
    return dict(kind=kind, k=k, seed=seed, threshold=threshold, processor_seconds=round(spent, 1), **{s: round(mean_scores(rows)[s], 5) for s in SCORES})


def settings(args, model):
    "What decides the figures; the painter by its config and a digest of its weights."
    digest = hashlib.sha256()
    for name, t in model.state_dict().items(): digest.update(name.encode() + t.cpu().numpy().tobytes())
    return dict(weights=digest.hexdigest()[:16], data=args.data, size=args.size, pairs=args.pairs, steps=args.steps, batch=args.batch, patch=args.patch, widths=list(args.widths), painter=model.config.to_dict())


def write_aside(file, text):
    "A file that is whole or not there."
    aside = file.with_suffix('.part')
    aside.write_text(text)
    os.replace(aside, file)


def train_all(args):
    root = Path(os.environ.get('RETIGAN_DATA', ''), args.data)
    if not root.is_dir(): raise SystemExit(f'{args.data}: set RETIGAN_DATA to the folder that holds it')
    if args.run is None: raise SystemExit('--run is missing: the folder of a retigan-train on the same data')
    model, args.work = load_run(args.run), Path(args.work)
    args.work.mkdir(parents=True, exist_ok=True)
    kept, mine = args.work/'settings.json', settings(args, model)
    if kept.exists():
        old = json.loads(kept.read_text())['settings']
        differ = sorted(k for k in mine if k in old and old[k] != mine[k])           # the first folders did not note the weights
        if differ: raise SystemExit(f'{args.work}: was made with other settings ({", ".join(differ)}), choose another --work')
    else: write_aside(kept, json.dumps(dict(settings=mine, machine=processor(), retigan=__version__, torch=torch.__version__, python=platform.python_version()), indent=1) + '\n')
    train = open_dataset(root, split='train')
    parts = [square_samples(s, args.size) for s in (train, open_dataset(root, split='test'))]
    real, test = (as_samples(s, s['real']) for s in parts)
    made = synthetic(args, model)
    for seed in range(args.seeds):
        for kind, k in conditions(len(real), args.ks, args.own):
            file = args.work/f'{kind}_{k}_{seed}.json'
            if file.exists(): continue
            if kind == 'real+own': made['own'] = synthetic(args, own_painter(args, model.config, train, k, seed))['painted']
            found = one(args, kind, k, seed, real, test, made)
            write_aside(file, json.dumps({**found, 'trained': len(real), 'tested': len(test)}) + '\n')
            print(found, flush=True)


def spread(rows, score):
    values = [r[score] for r in rows]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.


def plot(rows, path):
    "Dice against k with the spread over seeds, side by side where they share a k; what needs no real photograph as a band."
    from matplotlib.figure import Figure
    fig = Figure(figsize=(6.4, 4.8), layout='constrained')
    ax = fig.subplots()
    colours = {'real': '#333333', 'painted': '#d1495b', 'own': '#66a182', 'simulator': '#2e86ab'}
    for i, (kind, says) in enumerate(KINDS.items()):
        ks = sorted({r['k'] for r in rows if r['kind'] == kind})
        if not ks: continue
        means, deviations = zip(*(spread([r for r in rows if r['kind'] == kind and r['k'] == k], 'dice') for k in ks))
        ax.errorbar([k*1.04**(i - 1.5) for k in ks], means, deviations, marker='o', capsize=3, label=says, color=colours[kind.split('+')[-1]])
    for kind, says in ALONE.items():
        alone = [r for r in rows if r['kind'] == kind]
        if not alone: continue
        m, d = spread(alone, 'dice')
        ax.axhline(m, linestyle='--', color=colours[kind], label=says)
        ax.axhspan(m - d, m + d, color=colours[kind], alpha=.15, linewidth=0)
    ax.set(xscale='log', xlabel='real photographs with a drawn tree, k', ylabel='Dice on real test photographs')
    ax.set_xticks(KS, [str(k) for k in KS])
    ax.minorticks_off()
    fig.legend(loc='outside lower center', ncols=2, fontsize=8)
    ax.spines[['top', 'right']].set_visible(False)
    fig.savefig(path, dpi=110)


def differences(rows):
    "(what, against what, k, {score: one difference a seed}): both of a seed with the same photographs and first weights."
    names = {**KINDS, 'painted': 'painted', 'simulator': "the simulator's own", 'real': 'k real'}
    found = {(r['kind'], r['k'], r['seed']): r for r in rows}
    pairs = [('painted', 'simulator'), ('real+painted', 'real'), ('real+own', 'real'), ('real+simulator', 'real'), ('real+painted', 'real+simulator')]
    for a, b in pairs:
        for k in sorted({r['k'] for r in rows if r['kind'] == a}):
            seeds = [s for kind, j, s in sorted(found) if (kind, j) == (a, k) and (b, k, s) in found]
            if seeds: yield names[a], names[b], k, {score: [found[a, k, s][score] - found[b, k, s][score] for s in seeds] for score in SCORES}


def difference_lines(rows):
    "Differences by seed as a table, and how many go one way in every seed."
    if not any(differences(rows)): return ['No two conditions of one seed are there yet.']
    lines = ['| what | minus | k | seeds | Dice | clDice | AUC |', '|---|---|---|---|---|---|---|']
    every = list(differences(rows))
    for a, b, k, gains in every:
        cells = [f'{statistics.mean(g):+.3f} ({min(g):+.3f} to {max(g):+.3f})' for g in gains.values()]
        lines.append(f'| {a} | {b} | {k or "-"} | {len(gains["dice"])} | ' + ' | '.join(cells) + ' |')
    lines.append('')
    for a, b in dict.fromkeys((a, b) for a, b, _, _ in every):
        group = [gains for x, y, _, gains in every if (x, y) == (a, b)]
        counts = [f'{says} {sum(min(g[score]) > 0 for g in group)} and {sum(max(g[score]) < 0 for g in group)}' for score, says in zip(SCORES, ('Dice', 'clDice', 'AUC'))]
        lines.append(f'- {a}, minus {b}: of {len(group)} row{"s" if len(group) > 1 else ""}, higher in every seed and lower in every seed: {", ".join(counts)}.')
    n = min((len(g['dice']) for *_, g in every), default=0)
    if n > 1: lines += ['', f'The same sign in {n} seeds is weak evidence: without any difference it comes up once in {2**(n - 1)} comparisons. AUC needs no threshold, Dice and clDice do.']
    return lines


def report(args):
    work, out = Path(args.work), args.out
    kept = json.loads((work/'settings.json').read_text())
    rows = [json.loads(f.read_text()) for f in sorted(work.glob('*_*_*.json'))]
    if not rows: raise SystemExit(f'{work}: holds no finished condition')
    s, ks = kept['settings'], sorted({r['k'] for r in rows if r['k']})
    own = sorted({r['k'] for r in rows if r['kind'] == 'real+own'})
    options = (f' --steps {s["steps"]}' if s['steps'] != 250 else '') + (f' --ks {" ".join(map(str, ks))}' if ks and ks != list(KS) else '') + (f' --own {" ".join(map(str, own))}' if own else '') + (f' --work runs/{work.name}' if work.name != 'usefulness' else '')
    lines = ['# Does a segmenter learn from painted pairs?', '',
             f'`RETIGAN_DATA=DIR python benchmarks/usefulness.py --run RUN{options}`, then the same with `--report --out results/{out.name}`. {s["data"]}: {rows[0]["trained"]} training photographs, tested once a network on '
             f'{rows[0]["tested"]} test photographs, squares of {s["size"]} px around the field of view, scored inside it. U-Net of widths {", ".join(map(str, s["widths"]))}, '
             f'{s["steps"]} steps of {s["batch"]} patches of {s["patch"]} px in every condition. Painted: {s["pairs"]} simulated trees, the painter trained on all training photographs of {s["data"]} '
             f'({s["painter"]["size"]} px, {s["painter"]["steps"]} steps). The threshold comes from the real training photographs of the condition, or from 20 synthetic ones where there is none. '
             f'{kept["machine"]}, one thread, {statistics.mean(r["processor_seconds"] for r in rows):.0f} processor seconds a network on a shared machine; retigan {kept["retigan"]}, torch {kept["torch"]}, Python {kept["python"]}.', '',
             f'Mean ± standard deviation over seeds; a seed decides the weights, the patches and which photographs are the k. {SIMULATOR}', '',
             '| learnt from | k | seeds | Dice | clDice | AUC |', '|---|---|---|---|---|---|']
    for kind, says in {**ALONE, **KINDS}.items():
        for k in sorted({r['k'] for r in rows if r['kind'] == kind}):
            group = [r for r in rows if r['kind'] == kind and r['k'] == k]
            cells = [f'{m:.3f} ± {d:.3f}' for m, d in (spread(group, score) for score in SCORES)]
            lines.append(f'| {says} | {k or "-"} | {len(group)} | ' + ' | '.join(cells) + ' |')
    lines += ['', 'Differences, seed by seed: the mean, and the lowest and the highest.', '', *difference_lines(rows), '',
              f'All trainings are short: {s["steps"]*s["batch"]} patches a network. At equal steps, what is mixed halves the patches that come from real photographs, and a longer training may order the rows otherwise.'
              + (' `vessels-small`, a wider network with 12,000 patches of simulated eyes and no photograph, reaches 0.775 and an AUC of 0.957 on the same test photographs '
                 '([small_vessels_loss.md](small_vessels_loss.md)), above every row here. Length, width and the strength of `light` differ between the two and were not taken apart; '
                 'the figures here rank pictures for a small network in a short training, no more.'
                 if (s['data'], s['size']) == ('DRIVE', 256) and max(r['dice'] for r in rows) < .775 and max(r['auc'] for r in rows) < .957 else ''), '',
              'The painter saw all training photographs with their trees, so for k below their number "k real and painted" uses more real photographs than k, through the painter. '
              'Only the last k is a comparison at equal data'
              + (', and the rows whose painter saw the same k: for each seed a painter of its own, trained as long, on the k photographs of that seed and no other.' if own else '; painters that have seen the k photographs only are in [usefulness_long.md](usefulness_long.md) (`--own`).')
              + ' Simulated trees are not people\'s drawings: all synthetic pairs teach trees that nobody has drawn.', '',
              f'![Dice against the number of real photographs]({out.with_suffix(".png").name})', '']
    out.write_text('\n'.join(lines), encoding='utf-8')
    out.with_suffix('.json').write_text(json.dumps(dict(kept, rows=rows), indent=1) + '\n')
    plot(rows, out.with_suffix('.png'))
    print('\n'.join(lines))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', type=Path, help='folder of a retigan-train on the same data')
    parser.add_argument('--data', default='DRIVE', help='a dataset in RETIGAN_DATA')
    parser.add_argument('--work', default='runs/usefulness')
    for name, default in (('size', 256), ('pairs', 100), ('steps', 250), ('batch', 4), ('patch', 96), ('seeds', 3)): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--ks', type=int, nargs='+', default=KS, help='numbers of real photographs; default: 1 3 5 10 20')
    parser.add_argument('--own', type=int, nargs='*', default=(), help='numbers of real photographs, fewer than all, for which painters are trained on these only')
    parser.add_argument('--widths', type=int, nargs='+', default=[12, 24, 48, 96])
    parser.add_argument('--report', action='store_true')
    parser.add_argument('--out', type=Path, help='with --report: .md; numbers and plot go beside it')
    args = parser.parse_args(argv)
    if not args.report: return train_all(args)
    if args.out is None: parser.error('--report needs --out')
    report(args)


if __name__ == '__main__': main()
