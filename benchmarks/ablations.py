#!/usr/bin/env python3
"""What each part of RetiGAN is worth: the same training without it, on equal steps, three seeds each.

    OMP_NUM_THREADS=1 python benchmarks/ablations.py --data simulated
    OMP_NUM_THREADS=1 RETIGAN_DATA=DIR python benchmarks/ablations.py --data DRIVE --vgg DIR/vgg19.npz
    python benchmarks/ablations.py --data simulated --report --out results/ablations_simulated.md

One folder a variant and seed under runs/ablations/: config.json, metrics.csv, the pictures painted around 20 trees that the
training has not seen, figures.json when it is whole. A run that is there is not made again, so a stopped command goes on;
seed 0 of everything comes first. --report measures what the folders hold, with retigan.evaluate, and trains nothing.
"""
import argparse
import hashlib
import inspect
import json
import os
import platform
import shutil
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
from machine import processor
from torch import nn

import retigan.evaluate
import retigan.metrics
from retigan import __version__
from retigan.datasets import SimulatedEyes, open_dataset
from retigan.evaluate import (EyeFeatures, Pictures, edge_width, find_trees, frechet_distance, gradient_energy, image_fidelity, kernel_distance,
                              square_samples, variety)
from retigan.images import read_image, save_image
from retigan.local_enhancer import LocalEnhancer
from retigan.losses import GeneratorLoss, PerceptualLoss
from retigan.metrics import cl_dice, dice
from retigan.model import RetiGAN, RetiGANConfig
from retigan.train import Trainer, _fixed_samples
from retigan.unet import UNet

BASE = dict(filters=16, d_filters=16, n_bottle=6, ema=.99)


@dataclass
class Variant:
    "A change of the training: `says` for the table, `changes` of the config, and what a config can't say."
    says: str
    changes: dict = field(default_factory=dict)
    networks: callable = None          # model -> None, changes it before the optimiser sees it
    perceptual: callable = None        # args -> PerceptualLoss, or None where its weights can't be had


def enhancer(model):
    "A LocalEnhancer of one enhancer in place of the GlobalGenerator, the halvings shared between its two parts."
    c = model.config
    model.G = LocalEnhancer(c.in_channel, 3, c.filters, 1, c.n_bottle, 1, 3, c.mode).init_weights()


def one_discriminator(model):
    "One discriminator for all scales, the fault of the public code."
    model.D.scales = nn.ModuleList([model.D.scales[0]]*len(model.D.scales))


def vgg_of_a_file(args): return PerceptualLoss(weights_path=args.vgg) if args.vgg else None


VARIANTS = {
    'base': Variant('all of it: vessel U-Net as perceptual network, two scales, bilinear'),
    'no-smooth': Variant('without smoothed edges', dict(lambda_smooth=0)),
    'no-fm': Variant('without feature matching', dict(lambda_fm=0)),
    'no-perceptual': Variant('without perceptual loss', dict(perceptual='none')),
    'one-scale': Variant('one discriminator scale', dict(n_dim=1)),
    'three-scales': Variant('three discriminator scales', dict(n_dim=3)),
    'shared-D': Variant('scales share one discriminator (the fault of the public code)', networks=one_discriminator),
    'enhancer': Variant('LocalEnhancer in place of the GlobalGenerator', networks=enhancer),
    'trans': Variant('upsampling by transposed convolutions', dict(mode='trans')),
    'shuffle': Variant('upsampling by pixel shuffle', dict(mode='shuffle')),
    'no-adversary': Variant('without the adversarial term (D still trained for feature matching)', dict(lambda_adv=0)),
    'vgg-random': Variant('random VGG19 as perceptual network', dict(perceptual='random')),
    'vgg-imagenet': Variant('ImageNet VGG19 as perceptual network', perceptual=vgg_of_a_file)}


def config_of(variant, args, seed):
    base = RetiGANConfig.preset(args.preset, perceptual='unet') if args.preset else RetiGANConfig(**BASE)
    changes = {'size': args.size or base.size, 'steps': args.steps, 'seed': seed, **VARIANTS[variant].changes}
    return replace(base, **{'mode': 'bilinear', **changes})


def eyes_of(args, seed):
    "(to learn from, to judge by)"
    if args.data == 'simulated': return SimulatedEyes(args.eyes, 2*args.size, 10_000*(seed + 1)), SimulatedEyes(args.trees, 2*args.size, 2_000_000_000)
    root = Path(os.environ.get('RETIGAN_DATA', ''), args.data)
    if not root.is_dir(): raise SystemExit(f'{args.data}: set RETIGAN_DATA to the folder that holds it')
    return open_dataset(root, split='train'), open_dataset(root, split='test')


class Plan(RetiGAN):
    "A RetiGAN whose networks a variant has changed."
    change = None
    def __init__(self, config, discriminator=True):
        super().__init__(config, discriminator)
        if discriminator and Plan.change: Plan.change(self)


def train_one(variant, args, seed, folder):
    "Train a variant and leave its pictures in `folder`."
    v, config = VARIANTS[variant], config_of(variant, args, seed)
    perceptual = v.perceptual(args) if v.perceptual else None
    if v.perceptual and perceptual is None: return print(f'{variant}: left out, give its weights by --vgg', flush=True)
    part = folder.with_name(f'.{folder.name}.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    learn, test = eyes_of(args, seed)
    Plan.change = staticmethod(v.networks) if v.networks else None
    with mock.patch('retigan.train.RetiGAN', Plan): trainer = Trainer(config, cpu=args.cpu)
    if perceptual is not None:
        trainer.loss_g = GeneratorLoss(config.lambda_adv, config.lambda_fm, config.lambda_vgg, config.gan_loss, perceptual=perceptual).to(trainer.device)
    layers = None if config.perceptual == 'none' else trainer.loss_g.perceptual.perception.layers
    begin = time.process_time()
    rows = trainer.fit(learn, progress=False)
    spent = time.process_time() - begin
    f = _fixed_samples(test, args.size, len(test))
    painted = trainer.painter.generate(f['vessels'].to(trainer.device), f['fov'].to(trainer.device), batch_size=1, black=True).cpu()
    for i, x in enumerate(painted): save_image(x, part/f'{i:02}.png')
    (part/'config.json').write_text(json.dumps(config.to_dict(), indent=1) + '\n')
    (part/'metrics.csv').write_text('\n'.join([','.join(rows[0]), *(','.join(map(str, r.values())) for r in rows)]) + '\n')
    (part/'figures.json').write_text(json.dumps(dict(
        variant=variant, data=args.data, seed=seed, steps=config.steps, processor_seconds=round(spent, 1), device=str(trainer.device),
        machine=torch.cuda.get_device_name() if trainer.device.type == 'cuda' else processor(), layers=layers,
        generator=sum(p.numel() for p in trainer.model.G.parameters()), discriminator=sum(p.numel() for p in trainer.model.D.parameters()),
        retigan=__version__, torch=torch.__version__, python=platform.python_version()), indent=1) + '\n')
    os.replace(part, folder)
    print(f'{args.data} {variant} seed {seed}: {spent:.0f} processor seconds, last row {rows[-1]}', flush=True)


# What the folders hold

MEASURES = {  # name -> (column, digits)
    'share': ('vessel Dice, share of ceiling', 3), 'cl_dice': ('clDice', 3), 'ssim': ('SSIM', 3), 'energy': ('gradient energy, of true', 3),
    'width': ('edge width, of true', 2), 'variety': ('variety, of true', 3), 'frechet': ('Fréchet', 2), 'kernel': ('kernel', 4)}


def mean(values): return sum(values)/len(values)


def vessels_in(images, squares, judge):
    "Mean Dice and clDice of what the judge finds."
    found = [((q >= judge.use['threshold']).float(), v, f) for q, v, f in zip(find_trees(images, judge), squares['vessels'], squares['fov'])]
    return dict(dice=mean([dice(*x) for x in found]), cl_dice=mean([cl_dice(*x) for x in found]))


def sharp(images, squares):
    return dict(energy=mean(gradient_energy(images, squares['fov'])), width=mean(edge_width(images, squares['vessels'], squares['fov'])),
                variety=variety(images, squares['fov'])['distance'])


def measured(folder, squares, true, judge, eyes, by):
    "The measures of a run, kept beside its pictures with a word on how they were measured: with another judge or other code they are measured again."
    kept = folder/'measures.json'
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.pop('by', None) == by: return found
    fake = torch.stack([read_image(f) for f in sorted(folder.glob('[0-9]*.png'))])
    vessels = vessels_in(fake, squares, judge)
    found = dict(share=vessels['dice']/true['dice'], dice=vessels['dice'], ceiling=true['dice'], cl_dice=vessels['cl_dice'],
                 ssim=mean([r['ssim'] for r in image_fidelity(Pictures(fake, **squares))]),
                 **{k: v/true[k] for k, v in sharp(fake, squares).items()},
                 frechet=frechet_distance(fake, squares['real'], eyes), kernel=kernel_distance(fake, squares['real'], eyes))
    found = {k: float(f'{v:.5g}') for k, v in found.items()}
    part = kept.with_name('.measures.part')
    part.write_text(json.dumps({**found, 'by': by}, indent=1) + '\n')
    os.replace(part, kept)
    return found


def collected(args):
    "variant -> list of dicts, one a seed: figures and measures."
    root = args.runs/f'{args.data}_{args.size}'
    if args.size > 300 and not args.judge: raise SystemExit('--judge is missing: the network of the package for this size is in the loss; train one with benchmarks/segment.py')
    judge, found = UNet.from_pretrained(args.judge or 'vessels-judge'), {}
    code = ''.join(inspect.getsource(m) for m in (retigan.evaluate, retigan.metrics, vessels_in, sharp, measured))
    by = f'{args.judge or "vessels-judge"}, code {hashlib.sha256(code.encode()).hexdigest()[:12]}'
    squares, eyes = square_samples(eyes_of(args, 0)[1], args.size), EyeFeatures(judge)
    true = {**vessels_in(squares['real'], squares, judge), **sharp(squares['real'], squares)}
    for variant in VARIANTS:
        folders = [f for f in sorted(root.glob(f'{variant}_[0-9]*')) if (f/'figures.json').exists()]
        if folders: found[variant] = [{**json.loads((f/'figures.json').read_text()), **measured(f, squares, true, judge, eyes, by), 'folder': f} for f in folders]
    if 'base' not in found: raise SystemExit(f'{root}: holds no finished run of base')
    return found, squares


def cell(runs, base, name, digits):
    "Mean ± deviation over seeds; bold when no seed lies inside the range of the whole recipe's seeds or beyond its other side."
    values, other = [r[name] for r in runs], [r[name] for r in base]
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    apart = runs is not base and min(len(values), len(other)) > 2 and (min(values) > max(other) or max(values) < min(other))
    text = f'{mean(values):.{digits}f}{spread}'
    return f'**{text}**' if apart else text


def sheet(found, squares, n=4):
    "A matplotlib figure: a row a variant, the same trees in each, seed 0."
    from matplotlib.figure import Figure
    rows = {'tree': squares['vessels'][:n].expand(-1, 3, -1, -1)*2 - 1,
            **{v: torch.stack([read_image(f) for f in sorted(runs[0]['folder'].glob('[0-9]*.png'))[:n]]) for v, runs in found.items()}}
    fig = Figure(figsize=(1.5*n + 1.2, 1.5*len(rows)), layout='constrained')
    for axes, (name, pictures) in zip(fig.subplots(len(rows), n, squeeze=False), rows.items()):
        for ax, x in zip(axes, pictures):
            ax.imshow(((x.permute(1, 2, 0) + 1)/2).clamp(0, 1).numpy())
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel(name, rotation=0, ha='right', va='center')
    return fig


def report(args):
    found, squares = collected(args)
    first, base = found['base'][0], found['base']
    heads = ['variant', 'seeds', *(column for column, _ in MEASURES.values()), 'weights of G, of base', 'seconds, of base']
    cells = {v: [cell(runs, base, name, d) for name, (_, d) in MEASURES.items()] for v, runs in found.items()}
    bold = sum(c.startswith('**') for row in cells.values() for c in row)
    asked = sum(len(row) for v, row in cells.items() if min(len(found[v]), len(base)) > 2 and v != 'base')
    time_of = {v: mean([r['processor_seconds'] for r in runs]) for v, runs in found.items()}
    lines = [f'# What each part is worth: {args.data}, {args.size} px', '',
             f'`python benchmarks/ablations.py --data {args.data} --size {args.size} --steps {first["steps"]}`, then the same with `--report --out results/{args.out.name}`. '
             f'{first["steps"]} steps each on {f"{args.eyes} simulated eyes" if args.data == "simulated" else f"the training photographs of {args.data}"}, batch 1, '
             f'G of {first["generator"]:,} weights and D of {first["discriminator"]:,} in base; {len(squares["names"])} trees that the training has not seen. '
             f'{first["machine"]}, one thread, a shared machine; {mean([r["processor_seconds"] for r in base]):.0f} processor seconds a run of base; retigan {first["retigan"]}, torch {first["torch"]}, Python {first["python"]}.', '',
             f'Mean ± standard deviation over seeds. Vessels by `{Path(args.judge or "vessels-judge").name}`, which took no part in any training; its ceiling, Dice on the true photographs, is '
             f'{first["ceiling"]:.3f}. Fréchet and kernel distances in its deepest features. "Of true": 1 is what the true photographs have. '
             f'**Bold**: every seed lies outside the range of the seeds of base, on one side; with three seeds against three, chance does that in one case of ten. Of {asked} cells {bold} are bold; some {asked/10:.0f} would be if no variant made any difference. A single bold cell is a hint, a row of them is not.', '',
             '| ' + ' | '.join(heads) + ' |', '|---'*len(heads) + '|']
    for v, runs in found.items():
        says = VARIANTS[v].says + (f', to {runs[0]["layers"][-1]}' if v.startswith('vgg') and runs[0]['layers'] else '')
        lines.append('| ' + ' | '.join([f'`{v}`: {says}', str(len(runs)), *cells[v], f'{runs[0]["generator"]/first["generator"]:.2f}', f'{time_of[v]/time_of["base"]:.2f}']) + ' |')
    lines += ['', f'![The same four trees painted by each variant, seed 0]({args.out.with_suffix(".jpg").name})', '']
    args.out.write_text('\n'.join(lines), encoding='utf-8')
    plain = {v: [{k: x for k, x in r.items() if k != 'folder'} for r in runs] for v, runs in found.items()}
    args.out.with_suffix('.json').write_text(json.dumps(plain, indent=1) + '\n')
    sheet(found, squares).savefig(args.out.with_suffix('.jpg'), dpi=80, pil_kwargs=dict(quality=85))
    print('\n'.join(lines))


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default='simulated', help='simulated, or a dataset in RETIGAN_DATA, such as DRIVE')
    for name, default in (('size', 0), ('steps', 300), ('seeds', 3), ('eyes', 200), ('trees', 20)): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--preset', choices=('demo', 'small', 'paper'), help='networks of a preset; default: smaller ones, for a CPU')
    parser.add_argument('--judge', help='with --report above 300 px: the U-Net that finds the vessels, a folder')
    parser.add_argument('--only', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument('--vgg', type=Path, help="VGG19's ImageNet weights, a file; it may hold the first layers only, the table names them")
    parser.add_argument('--runs', type=Path, default=Path('runs/ablations'))
    parser.add_argument('--cpu', action='store_true', help='stay on the CPU though there is a GPU')
    parser.add_argument('--report', action='store_true')
    parser.add_argument('--out', type=Path, help='with --report: the table, .md; numbers and pictures go beside it')
    args = parser.parse_args(words)
    args.size = args.size or (RetiGANConfig.preset(args.preset).size if args.preset else 128)
    if args.report:
        if args.out is None: parser.error('--report needs --out')
        return report(args)
    for seed in range(args.seeds):
        for variant in args.only:
            folder = args.runs/f'{args.data}_{args.size}'/f'{variant}_{seed}'
            if not (folder/'figures.json').exists(): train_one(variant, args, seed, folder)


if __name__ == '__main__': main()
