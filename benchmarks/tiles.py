#!/usr/bin/env python3
"""What a large photograph costs in memory and time, in tiles and whole.

    python benchmarks/tiles.py [--sizes 512 1024 2048 3072] [--out results/tiles.md]

The network that comes with the package, on random pictures; one thread. Each cell is a process of its own, so that its
peak memory is its own: what the operating system saw at the highest point, less what it saw before the picture was
made. The processes take turns over the tiles, size by size.
"""
import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from machine import processor

PROBE = '''
import resource, sys, time, torch
torch.set_num_threads(1)
from retigan.segment import predict_tiled
from retigan.unet import UNet
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
net, size, tile = UNet.from_pretrained(), int(sys.argv[1]), int(sys.argv[2]) or None
predict_tiled(net, torch.zeros(3, 64, 64))
before = peak()
x = torch.rand(3, size, size)*2 - 1
begin = time.perf_counter()
predict_tiled(net, x, tile)
print(peak() - before, time.perf_counter() - begin)
'''


def probe(size, tile):
    "(MiB, seconds) of one picture; None where the machine has not enough memory."
    done = subprocess.run([sys.executable, '-c', PROBE, str(size), str(tile or 0)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return tuple(map(float, done.stdout.split())) if done.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[512, 1024, 2048, 3072])
    parser.add_argument('--tiles', type=int, nargs='+', default=[256, 512, 1024, 0], help='0: the whole picture')
    parser.add_argument('--out', type=Path, help='also write the table to this file')
    args = parser.parse_args()
    lines = ['# Tiles', '', f'Made by `python benchmarks/tiles.py` on {processor()}, one thread, torch {torch.__version__}, Python {platform.python_version()}. '
             'MiB above what the process held before, the picture included (12 bytes a pixel), and seconds against the whole picture. Network: vessels-simulated.', '',
             '| pixels | ' + ' | '.join(f'tile {t}' if t else 'whole' for t in args.tiles) + ' |', '|---|' + '---|'*len(args.tiles)]
    for size in args.sizes:
        cells = {t: probe(size, t) for t in args.tiles}
        whole = cells.get(0)
        def text(cell): return 'not enough memory' if cell is None else f'{cell[0]:.0f} MiB, {cell[1]:.1f} s' + (f' ({cell[1]/whole[1]:.2f})' if whole else '')
        lines.append(f'| {size} x {size} | ' + ' | '.join(text(cells[t]) for t in args.tiles) + ' |')
        print(lines[-1], flush=True)
    out = '\n'.join(lines) + '\n'
    if args.out: args.out.write_text(out, encoding='utf-8')
    else: print(out, end='')


if __name__ == '__main__': main()
