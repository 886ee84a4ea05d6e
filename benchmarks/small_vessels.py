#!/usr/bin/env python3
"""Train a vessel U-Net for small pictures, 100 to 300 pixels across, on simulated eyes.

    python benchmarks/small_vessels.py --role loss  --save retigan/pretrained/vessels-small
    python benchmarks/small_vessels.py --role judge --save retigan/pretrained/vessels-judge

Training RetiGAN at 128 or 256 pixels needs two networks that know vessels of that size: one whose features make the
perceptual loss, and one that judges the result and was never part of a loss. They learn from different simulated eyes and
have different widths and ways of upsampling. Weights and threshold are chosen on four eyes more. `--out` writes the table:
Dice on eyes that neither has seen and, where RETIGAN_DATA holds it, on DRIVE's test photographs at the same sides.
"""
import argparse
import os
import platform
import time
from pathlib import Path

import torch
from machine import SIMULATOR, processor

from retigan.datasets import FundusSample, SimulatedEyes, open_dataset, square_eye
from retigan.metrics import mean_scores, vessel_scores
from retigan.segment import VesselPatches, choose_threshold, find_vessels, train_unet
from retigan.unet import UNet

ROLES = {'loss': dict(widths=(16, 32, 64, 128), mode='trans', first=20_000, seed=1),
         'judge': dict(widths=(20, 40, 80, 120), mode='bilinear', first=30_000, seed=2)}
SIDES = (112, 128, 160, 208, 256)


def at_side(sample, side):
    "A sample cut to its field of view at `side` pixels, as the training of RetiGAN sees it."
    five = square_eye(sample, side).float()
    return FundusSample(five[:3]/127.5 - 1, five[3:4], five[4:], f'{sample.name}@{side}', sample.dataset)


def eyes(first, n): return [s for s in (SimulatedEyes(n, 384, first)[i] for i in range(n))]


def trained(args, role):
    "The network and the minutes of processor time it took."
    torch.manual_seed(role['seed'])
    net = UNet((3, *role['widths']), mode=role['mode'])
    samples = eyes(role['first'], args.eyes)
    learn = [at_side(s, SIDES[(i + j) % len(SIDES)]) for i, s in enumerate(samples) for j in (0, 2)]
    valid = [at_side(s, side) for s in eyes(role['first'] + 5000, 4) for side in (128, 256)]
    patches = VesselPatches(learn, 250*args.batch, args.patch, role['seed'], zoom=1.2, light=1.)
    begin = time.process_time()
    history = train_unet(net, patches, valid, args.steps, args.batch, args.lr)
    net.use = dict(threshold=choose_threshold(net, valid, flips=False), diameter=128)
    return net, (time.process_time() - begin)/60, max(history, key=lambda h: h['valid'])


def table(net):
    "Mean scores by set and side, as lines of Markdown."
    sets = {'simulated, unseen': eyes(900_000, 20)}
    root = Path(os.environ.get('RETIGAN_DATA', ''), 'DRIVE')
    if root.is_dir(): sets["DRIVE's test photographs"] = (lambda d: [d[i] for i in range(len(d))])(open_dataset(root, split='test'))
    lines = ['| photographs | side | Dice | clDice | AUC |', '|---|---|---|---|---|']
    for name, samples in sets.items():
        for side in (128, 256):
            small = [at_side(s, side) for s in samples]
            row = mean_scores([vessel_scores(find_vessels(net, s.image, s.fov, flips=False), s.vessels, s.fov, net.use['threshold']) for s in small])
            lines.append(f'| {name}, {len(samples)} | {side} | {row["dice"]:.3f} | {row["cl_dice"]:.3f} | {row["auc"]:.3f} |')
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--role', choices=list(ROLES), required=True)
    for name, default in (('eyes', 100), ('steps', 1500), ('patch', 112), ('batch', 8), ('threads', 1)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--lr', type=float, default=3e-3)
    parser.add_argument('--save', type=Path, required=True, help='write weights, config and model card to this folder')
    parser.add_argument('--out', type=Path, help='write the table to this file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    role = ROLES[args.role]
    net, minutes, best = trained(args, role)
    net.save_pretrained(args.save)
    lines = table(net)
    said = [f'- Trained on {args.eyes} simulated eyes, seeds from {role["first"]}, each at two of the sides {", ".join(map(str, SIDES))}: {args.steps} steps of '
            f'{args.batch} patches of {args.patch} pixels, {minutes:.1f} minutes of processor time on {processor()}, {args.threads} thread(s).',
            f'- Command: `python benchmarks/small_vessels.py --role {args.role} --save {args.save}`, torch {torch.__version__}, Python {platform.python_version()}.',
            f'- Weights of step {best["step"]} (Dice {best["valid"]:.4f} on the validation eyes), threshold {net.use["threshold"]:.3f}. One seed.', f'- {SIMULATOR}', '', *lines, '']
    role_text = {'loss': 'Its features are the perceptual loss of training at 128 and 256 pixels.',
                 'judge': 'It judges what training at 128 and 256 pixels has made, and takes part in no loss.'}[args.role]
    (args.save/'README.md').write_text('\n'.join([f'# U-Net for vessels in small pictures: the {args.role}', '',
        f'`UNet.from_pretrained("{args.save.name}")`: RGB in [-1, 1] in, vessel logits out. {sum(p.numel() for p in net.parameters()):,} parameters. {role_text}',
        '', *said[:4], '- Licence: as the package. For research and teaching; not for diagnosis.', *said[4:]]), encoding='utf-8')
    text = '\n'.join([f'# Vessels in small pictures: the {args.role}', '', *said])
    print(text)
    if args.out: args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
