#!/usr/bin/env python3
"""What a painted pair costs, where the time goes, how much memory it takes, and what a second process brings.

    OMP_NUM_THREADS=1 python benchmarks/generate.py [--pairs 24] [--memory 50,500] [--out results/generate.md]

The shipped model, 128 px, one thread a process. Processor time, so that other work on the machine counts little; the rate
of two processes is wall time and needs two free cores. --big FOLDER adds what a large set in that folder holds.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import retigan
from machine import processor
from retigan.datasets import open_dataset
from retigan.images import save_image, save_mask
from retigan.model import RetiGAN
from retigan.synthesis import SimulatedTrees, paint_pair, read_pairs, write_pairs

SIZE, BATCHES = 128, (1, 4, 8, 16)


def cost(job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def parts(n: int) -> dict:
    "Processor milliseconds a pair: growing trees, painting in batches, writing."
    model, trees = RetiGAN.from_pretrained('eyes-demo'), SimulatedTrees(n, SIZE)
    paint_pair(model, *trees.read(0))
    found = []
    ms = {'growing the tree': cost(lambda: found.extend(trees.read(i) for i in range(n)))}
    vessels, fov = (torch.stack(x) for x in zip(*found))
    pictures = model.generate(vessels, fov, black=True)
    for b in BATCHES: ms[f'painting, {b} at once'] = cost(lambda: model.generate(vessels, fov, batch_size=b, black=True))
    with tempfile.TemporaryDirectory() as tmp:
        def write():
            for i in range(n):
                save_image(pictures[i], Path(tmp, 'a.png'))
                save_mask(vessels[i], Path(tmp, 'b.png'))
                save_mask(fov[i], Path(tmp, 'c.png'))
        ms['writing three files'] = cost(write)
    return {name: 1000*s/n for name, s in ms.items()}


def child(out: str, n: int):
    "One process of `together`: prints what it did."
    torch.set_num_threads(1)
    model = RetiGAN.from_pretrained('eyes-demo')
    start = time.process_time()
    done = write_pairs(model, out, SimulatedTrees(n, SIZE), 'eyes-demo', block=10)
    print(json.dumps({**done, 'processor': time.process_time() - start, 'mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024}))


def together(n: int, processes: int) -> list:
    "What each of several processes says that write one set at once."
    with tempfile.TemporaryDirectory() as tmp:
        args = [sys.executable, __file__, '--child', f'{tmp}/pairs', '--pairs', str(n)]
        running = [subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}) for _ in range(processes)]
        return [json.loads(p.communicate()[0].splitlines()[-1]) for p in running]


def table(ms: dict, memory: dict, shared: dict, n: int, line: str) -> str:
    lines = ['# Pairs in thousands', '', f'`{line}`, retigan {retigan.__version__}, torch {torch.__version__.split("+")[0]}, {processor()}, one thread a '
             f"process, model `eyes-demo`, {SIZE} px. The machine was shared with other work, so processor time is given where it can be.", '',
             '| part | processor ms a pair |', '|---|---|', *(f'| {name} | {v:.0f} |' for name, v in ms.items())]
    total = sum(v for name, v in ms.items() if 'at once' not in name) + ms['painting, 1 at once']
    lines += ['', f'One at a time that makes {total:.0f} ms a pair, or {1000/total:.1f} pairs for a second of one core.', '',
              '| pairs written | peak memory, MiB | processor ms a pair |', '|---|---|---|']
    lines += [f'| {k} | {r["mib"]:.0f} | {1000*r["processor"]/k:.0f} |' for k, r in memory.items()]
    lines += ['', f'| processes, {n} pairs | painted by each | processor ms a pair | pairs a second, wall |', '|---|---|---|---|']
    for k, rs in shared.items():
        lines.append(f'| {k} | {", ".join(str(r["painted"]) for r in rs)} | {1000*sum(r["processor"] for r in rs)/n:.0f} | {n/max(r["seconds"] for r in rs):.1f} |')
    return '\n'.join(lines) + '\n'


def big(out: str) -> str:
    "What can be seen of a large set: how many, when, and that it is whole."
    records = read_pairs(out, verify=True)
    when = sorted(f.stat().st_mtime for f in Path(out, 'images').iterdir())
    pauses = [b - a for a, b in zip(when, when[1:]) if b - a > 60]                    # nobody was at work
    minutes = (when[-1] - when[0] - sum(pauses))/60
    size = sum(f.stat().st_size for f in Path(out).rglob('*') if f.is_file())/2**20
    text = (f'\n## A large set\n\n{len(records)} pairs, seeds {records[0]["seed"]} to {records[-1]["seed"]}, {len({r["sha256"] for r in records})} different pictures, '
            f'each as its record says; {size:.0f} MiB. '
            f'From the first picture to the last: {minutes:.0f} minutes at work, {len(records)/minutes/60:.1f} pairs a second; pauses of more than a minute: {len(pauses)}.')
    whole = (Path(out)/'pairs.json').exists()
    return text + (f' The set is whole and `open_dataset` reads it as {len(open_dataset(out))} samples.\n' if whole else ' The set is not whole.\n')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pairs', type=int, default=24)
    parser.add_argument('--memory', default='50,500', help='numbers of pairs to measure memory at')
    parser.add_argument('--big', help='a folder that write_pairs made, to be described')
    parser.add_argument('--child', help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path, help='also write the table to this file')
    args = parser.parse_args()
    if args.child: sys.exit(child(args.child, args.pairs))
    torch.set_num_threads(1)
    memory = {k: together(k, 1)[0] for k in map(int, args.memory.split(','))}
    shared = {k: together(2*args.pairs, k) for k in (1, 2)}
    text = table(parts(args.pairs), memory, shared, 2*args.pairs, f'python benchmarks/generate.py --pairs {args.pairs} --memory {args.memory}')
    if args.big: text += big(args.big)
    print(text, end='')
    if args.out: args.out.write_text(text)
