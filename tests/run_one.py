"""Run one notebook as nbdev_test does and say, as JSON, how long it took or which cell failed.

    python tests/run_one.py NOTEBOOK RESULT.json

nbdev's own report is a traceback that names no cell, so this looks over its shoulder: the shell it runs
cells in is told which cell each call is for.
"""
import json
import sys
import traceback
from pathlib import Path

import nbdev.test
from nbdev.config import get_config


class WatchedShell(nbdev.test.CaptureShell):
    "CaptureShell that remembers the cell it is in and keeps the failing one."
    failure = None

    def cell(self, cell, *args, **kwargs):
        try: return super().cell(cell, *args, **kwargs)
        finally:
            if self.exc and WatchedShell.failure is None:
                lines = traceback.format_exception(type(self.exc), self.exc, self.exc.__traceback__)
                WatchedShell.failure = {'cell': cell.get('id') or '(no id)', 'source': cell.source,
                                        'error': f'{type(self.exc).__name__}: {self.exc}', 'trace': ''.join(lines[-6:])}


def main(notebook: str, result: str):
    path = Path(notebook).resolve()
    config = get_config()
    nbdev.test.CaptureShell = WatchedShell
    ok, seconds = nbdev.test.test_nb(path, skip_flags=config.tst_flags.split(), basepath=config.config_path, showerr=False)
    Path(result).write_text(json.dumps({'ok': ok, 'seconds': round(seconds, 2), 'failure': WatchedShell.failure}))


if __name__ == '__main__': main(*sys.argv[1:])
