#!/usr/bin/env python3
"""Train a vessel U-Net and score it on DRIVE's 20 test photographs.

    RETIGAN_DATA=DIR python benchmarks/segment.py --train simulated --save retigan/pretrained/vessels-simulated
    RETIGAN_DATA=DIR python benchmarks/segment.py --train DRIVE
    RETIGAN_DATA=DIR python benchmarks/segment.py --score vessels-simulated

`simulated` learns from 156 simulated eyes and validates on 4 more; `DRIVE` learns from 17 of the 20 training
photographs and validates on 3. Weights and threshold are chosen on the validation part. The test photographs are
looked at once, at the end, inside the field of view, with and without the mean over four flips. `--save` keeps the
weights with a model card; `--out` writes the table. Without DRIVE, `--train simulated` trains and scores nothing.
"""
import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from machine import SIMULATOR, processor

from retigan.datasets import SimulatedEyes, open_dataset
from retigan.metrics import mean_scores, pooled_scores, vessel_scores
from retigan.segment import VesselPatches, choose_threshold, find_vessels, fov_diameter, train_unet
from retigan.unet import UNet

RECIPES = {'simulated': dict(light=1., zoom=1.4), 'DRIVE': dict(light=.5, zoom=1.25)}
COLUMNS = dict(dice='Dice', cl_dice='clDice', auc='AUC', ap='AP', sensitivity='sensitivity', specificity='specificity')


def drive(split, **kwargs):
    "DRIVE's samples, or an empty list where RETIGAN_DATA does not hold it."
    root = Path(os.environ.get('RETIGAN_DATA', ''), 'DRIVE')
    if not root.is_dir(): return []
    samples = open_dataset(root, split=split, **kwargs)
    return [samples[i] for i in range(len(samples))]


def parts(name):
    "Samples to train on and to validate on."
    if name == 'DRIVE':
        samples = drive('train')
        if not samples: raise SystemExit('segment.py: set RETIGAN_DATA to the folder that holds DRIVE')
        return samples[:17], samples[17:]
    eyes = SimulatedEyes(160, 560, seed=1000)
    samples = [eyes[i] for i in range(160)]
    return samples[:156], samples[156:]


def trained(args):
    "The network, and what is to be known about its training."
    learn, valid = parts(args.train)
    torch.manual_seed(args.seed)
    net = UNet((3, *args.widths)).to(args.device)
    patches = VesselPatches(learn, 250*args.batch, args.patch, args.seed, **RECIPES[args.train])
    begin = time.process_time()
    history = train_unet(net, patches, valid, args.steps, args.batch, args.lr, workers=args.workers)
    minutes = (time.process_time() - begin)/60              # of all threads: machines are shared
    net.use = dict(threshold=choose_threshold(net, valid), diameter=round(sum(fov_diameter(s.fov) for s in learn)/len(learn)))
    best = max(history, key=lambda h: h['valid'])
    return net, dict(data=f'{len(learn)} {"simulated eyes" if args.train == "simulated" else "DRIVE training photographs"}, {len(valid)} more to validate',
                     steps=args.steps, kept=best['step'], validation_dice=round(best['valid'], 4), cpu_minutes=round(minutes, 1))


def scores(net, flips):
    "(mean over the test photographs, scores of all their pixels pooled)."
    rows, probs, samples = [], [], drive('test')
    for s in samples:
        probs.append(find_vessels(net, s.image, s.fov, flips))
        rows.append(vessel_scores(probs[-1], s.vessels, s.fov, net.use['threshold']))
    return mean_scores(rows), pooled_scores(probs, [s.vessels for s in samples], [s.fov for s in samples], net.use['threshold'])


def table(net):
    "The scores on DRIVE's test photographs as lines of Markdown, and as plain numbers."
    rows = {}
    for label, flips in (('one look', False), ('mean of four flips', True)):
        rows[f'{label}, mean over photographs'], rows[f'{label}, pixels pooled'] = scores(net, flips)
    seconds = [vessel_scores(b.vessels, a.vessels, a.fov) for a, b in zip(drive('test'), drive('test', annotator=2))]
    rows['second observer, mean over photographs'] = {k: v for k, v in mean_scores(seconds).items() if k not in ('auc', 'ap')}
    lines = ['| | ' + ' | '.join(COLUMNS.values()) + ' |', '|---|' + '---|'*len(COLUMNS)]
    lines += [f'| {label} | ' + ' | '.join(f'{row[c]:.4f}' if row.get(c) is not None else '' for c in COLUMNS) + ' |' for label, row in rows.items()]
    return lines, rows


def where(device):
    return torch.cuda.get_device_name() if str(device) == 'cuda' else f'{processor()}, {torch.get_num_threads()} thread(s)'


def command(args):
    words = [f'--train {args.train}'] + [f'--{k} {v}' for k, v in (('widths', ' '.join(map(str, args.widths))), ('steps', args.steps),
             ('patch', args.patch), ('batch', args.batch), ('lr', args.lr), ('seed', args.seed), ('threads', args.threads)) if v]
    return f'RETIGAN_DATA=DIR python benchmarks/segment.py {" ".join(words)}'


def card(net, args, about, lines):
    "The model card that lies beside the weights."
    return '\n'.join([f'# U-Net for retinal vessels, trained on {about["data"].split(",")[0].split(" ", 1)[1]}', '',
        f'`UNet.from_pretrained("{args.save.name}")`: RGB in [-1, 1] in, vessel logits out. Channels {net.config["enc_channels"]}, '
        f'{sum(p.numel() for p in net.parameters()):,} parameters.', '',
        f'- Trained on: {about["data"]}, {about["steps"]} steps of {args.batch} patches of {args.patch} pixels, {about["cpu_minutes"]} minutes of processor time on {where(args.device)}.',
        f'- Command: `{command(args)} --save {args.save}`',
        f'- Weights of step {about["kept"]}, the best average on the validation part (Dice {about["validation_dice"]} there); threshold {net.use["threshold"]:.3f}, '
        f'chosen there too. Field of view: {net.use["diameter"]} pixels across.',
        '- Licence: as the package. For research and teaching; not for diagnosis.', '', "Scores on DRIVE's 20 test photographs, inside the field of view"
        + (f'. {SIMULATOR}' if 'simulated' in about['data'] else ':'), '', *lines, ''])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--train', choices=list(RECIPES))
    what.add_argument('--score', help='only score these weights: a shipped name or a folder')
    parser.add_argument('--widths', type=int, nargs='+', default=[16, 32, 64, 128])
    parser.add_argument('--steps', type=int, default=2500)
    parser.add_argument('--patch', type=int, default=128)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--lr', type=float, default=3e-3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=0)
    parser.add_argument('--threads', type=int, default=0, help='of the CPU; 0: what torch chooses')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--save', type=Path, help='write weights, config and model card to this folder')
    parser.add_argument('--out', type=Path, help='write the table to this file, and the numbers beside it as .json')
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    if args.train: net, about = trained(args)
    else: net, about = UNet.from_pretrained(args.score).to(args.device), dict(data=args.score)
    if args.save: net.save_pretrained(args.save)          # before the scores, which may fail for want of DRIVE
    lines, rows = table(net) if drive('test') else (['DRIVE was not there to score on.'], {})
    if args.save: (args.save/'README.md').write_text(card(net, args, about, lines), encoding='utf-8')
    made = command(args) if args.train else f'RETIGAN_DATA=DIR python benchmarks/segment.py --score {args.score}'
    text = '\n'.join([f"# Vessels on DRIVE's test photographs: {about['data']}", '',
        f'Made by `{made}` on {where(args.device)}, torch {torch.__version__}, Python {platform.python_version()}. ' + ', '.join(f'{k.replace("_", " ")} {v}' for k, v in about.items() if k != 'data')
        + f'. Threshold {net.use["threshold"]:.3f}, from the validation part. One seed. Inside the field of view.'
        + (f' {SIMULATOR}' if 'simulated' in about['data'] else ''), '', *lines, ''])
    print(text, end='')
    if args.out:
        args.out.write_text(text, encoding='utf-8')
        args.out.with_suffix('.json').write_text(json.dumps(dict(about, use=net.use, scores=rows), indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
