#!/usr/bin/env python3
"""Write down a run of `retigan-train`: what it painted, its figures, how it was made.

    retigan-train && python benchmarks/train_sheet.py runs/demo --out results/train_demo.md
    retigan-train --preset small --data DIR/DRIVE --out runs/drive && python benchmarks/train_sheet.py runs/drive --out results/train_DRIVE.md

The picture beside the table holds painted photographs only: the true ones of a dataset are not ours to publish. They lie
in the run's own `sheet.jpg`.
"""
import argparse
import json
import platform
from pathlib import Path

import torch
from machine import processor

from retigan.cli import _training_data
from retigan.images import resize_image, save_image
from retigan.metrics import mean_scores, vessel_scores
from retigan.model import RetiGANConfig
from retigan.train import _fixed_samples, load_run, read_metrics, read_notes
from retigan.unet import UNet

COLUMNS = dict(dice='Dice', cl_dice='clDice', auc='AUC')


def judged(images, f, judge):
    "Mean scores of what the judge finds in pictures of the trees `f`."
    p = [judge.predict(x[None])[0] for x in images]
    return mean_scores([vessel_scores(a, v, w, judge.use['threshold']) for a, v, w in zip(p, f['vessels'], f['fov'])])


def sheet(pictures, side, columns=5):
    "Pictures in rows, (3, H, W)."
    small = resize_image(pictures, side)
    rows = [torch.cat(list(small[i:i + columns]), 2) for i in range(0, len(small) - len(small) % columns, columns)]
    return torch.cat(rows, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path)
    parser.add_argument('--out', type=Path, required=True, help='.md; the picture and the numbers go beside it')
    parser.add_argument('--side', type=int, default=160, help='pixels of each painted picture on the sheet')
    parser.add_argument('--note', default='', help='a sentence to add')
    args = parser.parse_args()
    notes, kept = read_notes(args.run), json.loads((args.run/'config.json').read_text())
    config = RetiGANConfig.from_dict(kept['config'])
    _, test = _training_data(notes['data'], notes['vessels'], notes['seed'], notes['eyes'], config.size)
    f, model, judge = _fixed_samples(test, config.size, len(test)), load_run(args.run), UNet.from_pretrained('vessels-judge')
    painted = model.generate(f['vessels'], f['fov'], batch_size=1, black=True)
    scores = {'painted': judged(painted, f, judge), 'true photographs (the ceiling)': judged(f['real'], f, judge)}
    last = read_metrics(args.run/'metrics.csv')[-1]
    share = scores['painted']['dice']/scores['true photographs (the ceiling)']['dice']
    lines = [f'# A run: {config.steps} steps at {config.size} px on {kept["data"]["samples"]} {"photographs of " + kept["data"]["name"] if notes["data"] else "simulated eyes"}', '',
             f'`retigan-train --preset {notes["preset"]}{" --data DIR" if notes["data"] else ""}{" --steps " + str(notes["steps"]) if notes["steps"] else ""}`, '
             f'seed {config.seed}, one run, {last["step"]} steps in {last["seconds"]/60:.1f} minutes of a shared {processor()} processor, '
             f'torch {torch.__version__}, Python {platform.python_version()}. {args.note}', '',
             f'Vessels in {len(test)} pictures of trees that the training has not seen, found by `vessels-judge`, which took no part in the training and has seen simulated eyes only:', '',
             '| pictures | ' + ' | '.join(COLUMNS.values()) + ' |', '|---|' + '---|'*len(COLUMNS),
             *(f'| {name} | ' + ' | '.join(f'{row[c]:.3f}' for c in COLUMNS) + ' |' for name, row in scores.items()), '',
             f'{100*share:.0f} % of the ceiling, by Dice. A share near or above 100 % says that each tree is where it should be and clearly drawn; it does not say that the pictures look true.', '',
             f'![What was painted around the trees, {len(test)//5*5} pictures]({args.out.stem}.jpg)', '']
    args.out.write_text('\n'.join(lines), encoding='utf-8')
    args.out.with_suffix('.json').write_text(json.dumps(dict(scores=scores, share=share, steps=last['step'], seconds=last['seconds'], config=kept['config'], trees=len(test)), indent=1) + '\n')
    save_image(sheet(painted, args.side), args.out.with_suffix('.jpg'))
    print('\n'.join(lines))


if __name__ == '__main__': main()
