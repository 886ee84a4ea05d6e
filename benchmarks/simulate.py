#!/usr/bin/env python3
"""How long a simulated eye takes, and how the cost grows with its size.

    python benchmarks/simulate.py [--rounds 7] [--out results/simulate.md]

One process, one thread. The sizes take turns, so that a busy machine slows all of them alike; the
table gives the median over the rounds in wall and in processor time, and the cost for a pixel.
"""
import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import retigan
from machine import processor
from retigan.simulate import Draws, draw_anatomy, grow_trees, simulate_eye

SIZES = (128, 256, 512, 1024, 2048)


def measure(rounds: int) -> dict:
    "Seconds of wall and processor time for every size and for growing the trees alone, one row a round."
    def grow(seed):
        draws = Draws(seed, 1)
        grow_trees(draws, draw_anatomy(draws))
    tasks = {'trees': grow} | {size: (lambda seed, size=size: simulate_eye(size, seed)) for size in SIZES}
    for task in tasks.values(): task(0)
    times = {name: [] for name in tasks}
    for seed in range(rounds):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            task(seed)
            times[name].append((time.perf_counter()-wall, time.process_time()-cpu))
    return {name: np.median(rows, axis=0) for name, rows in times.items()}


def table(times: dict, rounds: int) -> str:
    grow = times['trees'][1]
    lines = ['# Time to simulate an eye', '',
        f'`python benchmarks/simulate.py --rounds {rounds}`, retigan {retigan.__version__}, {processor()}, one thread, median of {rounds} eyes. '
        f'Growing the trees takes {1e3*grow:.0f} ms at any size; "a pixel" is the rest.', '',
        '| size | wall ms | processor ms | processor ns a pixel beyond the trees | against 512 |', '|---|---|---|---|---|']
    per_pixel = {size: (times[size][1]-grow)/size**2 for size in SIZES}
    for size in SIZES:
        wall, cpu = times[size]
        lines.append(f'| {size} | {1e3*wall:.0f} | {1e3*cpu:.0f} | {1e9*per_pixel[size]:.0f} | {per_pixel[size]/per_pixel[512]:.2f} |')
    return '\n'.join(lines)+'\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, help='also write the table to this file')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    text = table(measure(args.rounds), args.rounds)
    print(text)
    if args.out: args.out.write_text(text, encoding='utf-8')
