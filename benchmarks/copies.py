#!/usr/bin/env python3
"""How often the copy test accuses the innocent, and how many copies it finds, by its limit.

    RETIGAN_DATA=DIR python benchmarks/copies.py --out results/copies.md

Innocent: eyes of the simulator with other seeds, and DRIVE's test photographs. Copies: the photographs learnt from as an
augmented training shows them, and the same darker, blurred and with noise. Some ten minutes on one thread; DRIVE's rows
need RETIGAN_DATA.
"""
import argparse
import os
from pathlib import Path

import torch
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm

from retigan.datasets import EyePairs, SimulatedEyes, open_dataset
from retigan.evaluate import machine_words, nearest, square_samples

LIMITS = .9, .89, .88, .87, .86, .85, .8


def copies(samples, size, n):
    "{name: (pictures, fields of view)}: the first `n` as a training shows them."
    shown = EyePairs(samples, size, augment=True, seed=5)
    x, fov = (torch.stack([shown[i][k] for i in range(n)]) for k in ('image', 'fov'))
    g = torch.Generator().manual_seed(0)
    soft = gaussian_blur(x*.8 - .1, 2*(size//64) + 1, size/128)
    return {'augmented': (x, fov), 'augmented, darker, blurred, noise': (soft + .05*torch.randn(x.shape, generator=g), fov)}


def row(name, ratios, bound, median, right=''):
    return f'| {name} | {len(ratios)} | {median:.3f} | {right} | ' + ' | '.join(str(int((ratios < limit*bound).sum())) for limit in LIMITS) + ' |'


def compare(name, learnt, squares, unseen, size, n, groups):
    "Rows of a table: the innocent against `groups` of the photographs, and copies against all."
    sizes, medians, innocent = [], [], []
    for where in tqdm(torch.arange(len(squares['real'])).chunk(groups), desc=name):
        r = nearest(unseen['real'], unseen['fov'], squares['real'][where], squares['fov'][where])['ratio']
        innocent.append(r/r.median())
        medians.append(float(r.median()))
        sizes.append(len(where))
    each = f'{name}: {len(unseen["real"])} innocent, each against {groups} sets of {sizes[0]}' if groups > 1 else f'{name}: innocent, {sizes[0]} learnt from'
    lines = [row(each, torch.cat(innocent), 1., sum(medians)/groups)]
    if groups > 1: return lines
    bound = medians[0]
    for kind, pictures in copies(learnt, size, n).items():
        found = nearest(*pictures, squares['real'], squares['fov'])
        lines.append(row(f'{name}: {kind}', found['ratio'], bound, found['ratio'].median(), f'{int((found["index"] == torch.arange(n)).sum())} of {n}'))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='the table, .md')
    parser.add_argument('--innocent', type=int, default=200, help='simulated eyes that nobody learnt from')
    args = parser.parse_args()
    learnt, size = SimulatedEyes(60, 256, seed=900), 128
    squares, unseen = square_samples(learnt, size), square_samples(SimulatedEyes(args.innocent, 256, seed=5000), size)
    lines = [x for groups in (5, 3, 1) for x in compare('simulated, 128 px', learnt, squares, unseen, size, 30, groups)]
    root = Path(os.environ.get('RETIGAN_DATA', ''), 'DRIVE')
    if root.is_dir():
        learnt = open_dataset(root, split='train')
        lines += compare('DRIVE, 256 px', learnt, square_samples(learnt, 256), square_samples(open_dataset(root, split='test'), 256), 256, 20, 1)
    text = '\n'.join(['# What the copy test finds, and whom it accuses', '',
        f'`RETIGAN_DATA=DIR python benchmarks/copies.py --out results/copies.md`; {machine_words()}. Nearest over next photograph, in pixels. '
        'The copy test calls a picture a copy when its ratio lies below a limit times the median ratio of the innocent; below, how many do, by limit. The package takes .87.', '',
        '| pictures | how many | median ratio | right source named | ' + ' | '.join(f'below {limit:g}' for limit in LIMITS) + ' |', '|---'*(4 + len(LIMITS)) + '|', *lines, ''])
    print(text)
    if args.out: args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
