"""Every notebook runs from top to bottom, each as its own case and in its own process.

`nbdev_test` runs the same notebooks with the same code; this adds the name of the failing cell.
"""
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(nbglob(get_config(path=ROOT).nbs_path, as_path=True))
LIMIT = 900         # seconds, so that a notebook that hangs is named too


def run_notebook(path: Path, env: dict, tmp_path: Path) -> dict:
    "Run one notebook in a process of its own; the report says `ok`, `seconds` and the `failure`."
    report = tmp_path/'report.json'
    try: done = subprocess.run([sys.executable, str(ROOT/'tests'/'run_one.py'), str(path), str(report)], cwd=ROOT,
                               env=env | {'IN_TEST': '1'}, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT)
    except subprocess.TimeoutExpired: return {'ok': False, 'seconds': LIMIT, 'failure': None, 'log': f'still running after {LIMIT} s'}
    if not report.exists(): return {'ok': False, 'seconds': 0, 'failure': None, 'log': f'the process ended with {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}'}
    return json.loads(report.read_text()) | {'log': done.stderr[-3000:]}


def explain(path: Path, report: dict) -> str:
    "One message that names the notebook, the cell, its source and the error."
    failure = report['failure']
    if failure is None: return f'{path.name}: {report["log"]}'
    head = '\n'.join('    ' + line for line in failure['source'].splitlines()[:6])
    return f'{path.name}, cell {failure["cell"]!r}: {failure["error"]}\n{head}\n{failure["trace"]}'


@pytest.fixture(scope='module')
def running():
    "Two notebooks at a time, as they need one core each: the pool, and path -> future report."
    pool = ThreadPoolExecutor(2)
    yield pool, {}
    pool.shutdown(cancel_futures=True)


@pytest.mark.notebook
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(path, running, child_env, request, tmp_path_factory, record_property):
    pool, reports = running
    if not reports:
        for item in request.session.items:
            if getattr(item, 'originalname', '') != 'test_notebook': continue
            chosen = item.callspec.params['path']
            reports[chosen] = pool.submit(run_notebook, chosen.absolute(), child_env, tmp_path_factory.mktemp(chosen.stem))
    report = reports[path].result()
    record_property(path.name, report['seconds'])
    if not report['ok']: pytest.fail(explain(path, report), pytrace=False)


def write_notebook(path: Path, *sources: str):
    cells = [nbformat.v4.new_code_cell(source, id=f'cell-{i}') for i, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def test_a_failure_names_notebook_and_cell(child_env, tmp_path):
    write_notebook(tmp_path/'07_broken.ipynb', 'import math', '#| hide\nx = 2\nassert math.sqrt(x) == 1, "no root"', 'never = True')
    report = run_notebook(tmp_path/'07_broken.ipynb', child_env, tmp_path)
    message = explain(tmp_path/'07_broken.ipynb', report)
    assert not report['ok']
    assert "07_broken.ipynb, cell 'cell-1': AssertionError: no root" in message
    assert 'assert math.sqrt(x) == 1' in message and 'never' not in message


def test_a_dead_process_is_a_failure(child_env, tmp_path):
    write_notebook(tmp_path/'08_dead.ipynb', 'import os\nos._exit(3)')
    report = run_notebook(tmp_path/'08_dead.ipynb', child_env, tmp_path)
    assert not report['ok'] and 'ended with 3' in explain(tmp_path/'08_dead.ipynb', report)


def test_flags_decide_what_runs(child_env, tmp_path):
    "The same cells are skipped as by nbdev_test, and IN_TEST is set as it sets it."
    write_notebook(tmp_path/'09_flags.ipynb', '#| eval: false\n1/0', '#| slow\n1/0', '#| cuda\n1/0', 'import os\nassert os.environ["IN_TEST"] == "1"')
    report = run_notebook(tmp_path/'09_flags.ipynb', child_env, tmp_path)
    assert report['ok'], explain(tmp_path/'09_flags.ipynb', report)
