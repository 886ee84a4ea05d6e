#!/usr/bin/env python3
"""Run notebooks top to bottom in a real kernel and write their outputs back, ready to commit.

    python tools/run_notebook.py nbs/00_images.ipynb [more.ipynb ...]

Each notebook runs in its own folder, offline, as a reader would run it. Nothing is written when a
cell fails: the notebook on disk stays as it was and the failing cell is shown. Widgets are dropped with
their state (GitHub refuses to show a notebook that carries it). The run leaves a fingerprint of the code
in the notebook's metadata, so that the gate can tell outputs of this code from outputs of an older
one; `nbdev_clean`, which drops execution counts, has the last word.
"""
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from notebooks import ROOT, code_cells, fingerprint, is_run, is_widget


def run(path: Path) -> float:
    "Execute `path` in place and return the seconds it took; raises CellExecutionError, leaving the file alone."
    nb = nbformat.read(path, as_version=4)
    skipped = [(cell, cell.metadata.get('tags')) for cell in code_cells(nb) if not is_run(cell)]
    for cell, _ in skipped: cell.metadata['tags'] = ['skip-execution']
    start = time.perf_counter()
    NotebookClient(nb, timeout=600, kernel_name='python3', coalesce_streams=True, resources={'metadata': {'path': str(path.parent)}}).execute()
    seconds = time.perf_counter() - start
    for cell, tags in skipped:
        if tags is None: del cell.metadata['tags']
        else: cell.metadata['tags'] = tags
    nb.metadata.pop('widgets', None)
    for cell in code_cells(nb): cell.outputs = [out for out in cell.outputs if not is_widget(out)]
    nb.metadata['executed'] = fingerprint(nb)
    aside = path.with_suffix('.ipynb.part')
    nbformat.write(nb, aside)
    os.replace(aside, path)
    nbdev_clean(str(path))
    return seconds


def main(names: list[str]) -> int:
    if not names:
        print(__doc__)
        return 2
    os.environ.setdefault('TQDM_DISABLE', '1')     # a bar in a saved output is a log of carriage returns
    paths = {name: Path(name).resolve() for name in names}
    os.chdir(ROOT)                                 # nbdev_clean looks for settings.ini from here upwards
    for name, path in paths.items():
        if path.suffix != '.ipynb' or not path.is_file():
            print(f'{name}: not a notebook', file=sys.stderr)
            return 2
        try: print(f'{path.name}: {run(path):.1f} s')
        except CellExecutionError as error:
            print(f'{path.name}: a cell failed, the file is unchanged\n{error}', file=sys.stderr)
            return 1
    return 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
