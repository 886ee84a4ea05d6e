#!/usr/bin/env python3
"""Every table and figure of the evidence, again, from run folders. Trains nothing; what has no folder is named and left alone.

    RETIGAN_DATA=DIR python benchmarks/evidence.py

Folders that are read, and the commands that make them:

    runs/drive           retigan-train --preset small --data DIR/DRIVE --steps 800 --out runs/drive
    runs/seeds/0 to 4    retigan-train --seed 0 --out runs/seeds/0, and so on
    runs/ablations       python benchmarks/ablations.py --data simulated; ... --data DRIVE --vgg FILE
    runs/usefulness      python benchmarks/usefulness.py --run runs/drive

A folder that holds a report.json already is not measured again; remove the file to have it measured.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from machine import processor

from retigan.cli import _test_eyes
from retigan.evaluate import draw_report, evaluate, machine_words, paint_samples, report_text, square_samples
from retigan.train import load_run, read_metrics, read_notes
from retigan.unet import UNet

HERE = Path(__file__).parent


def report_of(run):
    "The numbers of `retigan-evaluate RUN`, measured now if they are not there."
    if not (run/'report.json').exists():
        subprocess.run([sys.executable, '-W', 'ignore', '-c', f'from retigan.cli import evaluate; evaluate({str(run)!r})'], check=True)
    return json.loads((run/'report.json').read_text())


def real_run(runs, results):
    "A training on real photographs: the report, and a picture without the photographs, which are not ours to publish."
    run = runs/'drive'
    model, judge = load_run(run), UNet.from_pretrained('vessels-judge')
    test, learnt, label = _test_eyes(run, None, None, model.config.size, None)
    learnt, p = square_samples(learnt, model.config.size), paint_samples(model, test)
    report = evaluate(p, judge, 'vessels-judge', learnt)
    spent = read_metrics(run/'metrics.csv')[-1]
    kept = json.loads((run/'config.json').read_text())
    report |= dict(title=f'The evidence: {label}', made=[
        f'`retigan-train --preset {read_notes(run)["preset"]} --data DIR/{label} --steps {model.config.steps} --out runs/drive`, then `retigan-evaluate runs/drive`, written by '
        f'`python benchmarks/evidence.py`. {kept["data"]["samples"]} training photographs, {len(p)} test trees, one seed ({model.config.seed}), {model.config.size} px, '
        f'{spent["step"]} steps in {spent["seconds"]/60:.0f} minutes of a shared {processor()} processor; {machine_words()}.'])
    write_pair(results/f'evaluate_{label}', report, draw_report(p, report, judge, without=('true', 'nearest learnt from')))


def write_pair(stem, report, figure):
    stem.with_suffix('.json').write_text(json.dumps(report, indent=1) + '\n')
    figure.savefig(stem.with_suffix('.jpg'), dpi=80, pil_kwargs=dict(quality=85))
    stem.with_suffix('.md').write_text(report_text(report) + f'\n![Trees, what was painted, what was found in it]({stem.name}.jpg)\n', encoding='utf-8')


def seeds(runs, results):
    "The demo, by seeds."
    folders = sorted(f for f in (runs/'seeds').iterdir() if (f/'result.json').exists())
    reports = [report_of(f) for f in folders]
    def pick(r): return {'share of the ceiling': r['vessels']['share'], 'clDice': r['vessels']['fake']['cl_dice']['mean'], 'SSIM': r['image']['ssim']['mean'],
                         'gradient energy, of true': r['sharpness']['painted']['energy']['mean']/r['sharpness']['true']['energy']['mean'],
                         'edge width, of true': r['sharpness']['painted']['width']['mean']/r['sharpness']['true']['width']['mean'],
                         'variety, of true': r['variety']['painted']['distance']/r['variety']['true']['distance'],
                         'colour, of true': r['variety']['painted']['colour']/r['variety']['true']['colour'],
                         'Fréchet': next(iter(r['distances'].values()))['painted']['frechet'], 'copies': len(r['copies']['pixels']['copies'])}
    rows, minutes = [pick(r) for r in reports], [read_metrics(f/'metrics.csv')[-1]['seconds']/60 for f in folders]
    lines = ['# The demo by seeds', '',
             f'`retigan-train --seed S --out runs/seeds/S` for S = {", ".join(f.name for f in folders)}: 1000 steps at 128 px on 200 simulated eyes, other eyes for each seed, other weights, other order; '
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


def table(script, *args): subprocess.run([sys.executable, '-W', 'ignore', str(HERE/script), '--report', *map(str, args)], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=Path, default=Path('runs'))
    parser.add_argument('--results', type=Path, default=Path('results'))
    parser.add_argument('--only', nargs='+')
    args = parser.parse_args()
    runs, results = args.runs, args.results
    real = (Path(os.environ.get('RETIGAN_DATA', ''))/'DRIVE').is_dir()
    parts = {'drive': (runs/'drive'/'metrics.csv', real, lambda: real_run(runs, results)),
             'seeds': (runs/'seeds', True, lambda: seeds(runs, results)),
             'ablations_simulated': (runs/'ablations'/'simulated_128', True, lambda: table('ablations.py', '--data', 'simulated', '--runs', runs/'ablations', '--out', results/'ablations_simulated.md')),
             'ablations_DRIVE': (runs/'ablations'/'DRIVE_128', real, lambda: table('ablations.py', '--data', 'DRIVE', '--runs', runs/'ablations', '--out', results/'ablations_DRIVE.md')),
             'usefulness': (runs/'usefulness'/'settings.json', True, lambda: table('usefulness.py', '--work', runs/'usefulness', '--out', results/'usefulness.md'))}
    for name, (needs, there, make) in parts.items():
        if args.only and name not in args.only: continue
        if not needs.exists(): print(f'{name}: left alone, {needs} is not there; --help says what makes it'); continue
        if not there: print(f'{name}: left alone, set RETIGAN_DATA to the folder that holds DRIVE'); continue
        make()
        print(f'{name}: written', flush=True)


if __name__ == '__main__': main()
