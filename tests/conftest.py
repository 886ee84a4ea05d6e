"""Fixtures that several tests use: the real DRIVE set, the built site, a browser."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


NOTEBOOK_BUDGET = 60       # seconds one notebook may take in a test run; reported, not asserted


def pytest_terminal_summary(terminalreporter):
    "Say how long each notebook took, and which are over the budget."
    reports = [report for kind in ('passed', 'failed') for report in terminalreporter.stats.get(kind, [])]
    rows = [(name, seconds) for report in reports for name, seconds in getattr(report, 'user_properties', []) if name.endswith('.ipynb')]
    if not rows: return
    terminalreporter.section(f'seconds a notebook took (budget {NOTEBOOK_BUDGET})')
    for name, seconds in sorted(rows): terminalreporter.write_line(f'{name:28}{seconds:8.1f}' + ('  over the budget' if seconds > NOTEBOOK_BUDGET else ''))


def data_root() -> Path | None:
    "The folder RETIGAN_DATA names, a relative one taken from the repository's top; None when it is not set."
    value = os.environ.get('RETIGAN_DATA')
    return (ROOT/value).resolve() if value else None


@pytest.fixture(scope='session')
def drive() -> Path:
    "The folder of the real DRIVE set; skips the test where it is absent."
    root = data_root()
    if root is None: pytest.skip('RETIGAN_DATA is not set: the real DRIVE set is not here')
    if not (root/'DRIVE').is_dir(): pytest.skip(f'RETIGAN_DATA={os.environ["RETIGAN_DATA"]} holds no DRIVE folder')
    return root/'DRIVE'


@pytest.fixture(scope='session')
def child_env() -> dict:
    "The environment for child processes: one thread, no bars, no window, RETIGAN_DATA absolute, tools on the path."
    env = os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'TQDM_DISABLE': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
    if root := data_root(): env['RETIGAN_DATA'] = str(root)
    return env


@pytest.fixture(scope='session')
def site(tmp_path_factory, child_env) -> Path:
    "The course site, built once; what the builder said lies beside it in log.txt."
    out = tmp_path_factory.mktemp('site')/'html'
    done = subprocess.run([sys.executable, 'tools/make_site.py', '--out', str(out)], cwd=ROOT, env=child_env, text=True, capture_output=True)
    assert (out/'index.html').is_file(), f'tools/make_site.py failed:\n{done.stdout}{done.stderr}'
    (out.parent/'log.txt').write_text(done.stdout + done.stderr)
    return out


@pytest.fixture(scope='session')
def browser():
    "Headless Chromium; skips the test where there is none."
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    path = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if path is None: pytest.skip('no chromium on this machine; `apt-get install chromium` brings it')
    flags = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=path, headless=True, args=flags.split())
        yield chromium
        chromium.close()
