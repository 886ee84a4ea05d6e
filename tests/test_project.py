"""The files around the package: workflows, the CI script, settings and what the README promises."""
import os
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import data_root
from notebooks import ROOT, settings

WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.yml'))
TEST_COMMAND = "pip install -e '.[dev]' && pytest"
MAIN_COMMAND = "pip install -e '.[dev]' && retigan-train"


def commands(text: str) -> list[str]:
    "The lines of a README's shell blocks."
    return [line for block in re.findall(r'```bash\n(.*?)```', text, re.S) for line in block.splitlines()]


def test_readme_gives_the_two_commands():
    found = commands((ROOT/'README.md').read_text(encoding='utf-8'))
    assert found.count(MAIN_COMMAND) == 1 and found.count(TEST_COMMAND) == 1


def test_ci_runs_the_readme_test_command():
    lines = (ROOT/'.ci'/'run').read_text().splitlines()
    install, test = TEST_COMMAND.split(' && ')
    assert lines.count(install) == 1 and lines[-1] == test


@pytest.mark.skipif(os.name == 'nt' or not shutil.which('bash'), reason='needs bash')
def test_ci_script_is_sound():
    script = ROOT/'.ci'/'run'
    assert os.access(script, os.X_OK)
    assert subprocess.run(['bash', '-n', script]).returncode == 0


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_sound(path):
    flow = yaml.load(path.read_text(encoding='utf-8'), Loader=yaml.BaseLoader)      # BaseLoader: `on` stays a word
    assert {'name', 'on', 'jobs', 'permissions'} <= set(flow)
    for job in flow['jobs'].values():
        assert 'timeout-minutes' in job
        for step in job['steps']:
            assert ('uses' in step) != ('run' in step), step
            if 'uses' in step: assert re.fullmatch(r'[\w.-]+/[\w./-]+@(v\d+[\w.]*|[0-9a-f]{40})', step['uses']), f'{step["uses"]} is not pinned'


def test_every_gate_has_a_workflow():
    text = '\n'.join(path.read_text(encoding='utf-8') for path in WORKFLOWS)
    for gate in ('nbdev_clean', 'nbdev_export', 'nbdev_test', 'make_readme.py --check', 'make_site.py', 'not notebook', 'RETIGAN_CLEAN_INSTALL', 'schedule'):
        assert gate in text, f'no workflow runs {gate}'


def test_workflows_cover_the_pythons_of_setup():
    flow = yaml.load((ROOT/'.github'/'workflows'/'test.yml').read_text(encoding='utf-8'), Loader=yaml.BaseLoader)
    versions = flow['jobs']['wheel']['strategy']['matrix']['python']
    assert versions == ['3.10', '3.11', '3.12', '3.13'] and versions[0] == settings()['min_python']


def test_pins_that_hold_nbdev_together():
    "Without them `pip install` brings an execnb and a fastcore with which nbdev 2 cannot start."
    dev = settings()['dev_requirements'].split()
    assert {'nbdev>=2.4.14,<3', 'execnb<0.2', 'fastcore<2', 'jupyter-book<2'} <= set(dev)
    assert not [name for name in settings()['requirements'].split() if '<' in name], 'the package itself caps nothing'


def test_changelog_knows_the_version():
    assert re.search(rf'^## \[{re.escape(settings()["version"])}\]', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)


@pytest.mark.parametrize('value, expected', [(None, None), ('', None), ('../shared/data', (ROOT/'../shared/data').resolve())])
def test_real_data_are_found_from_the_top(value, expected, monkeypatch):
    monkeypatch.delenv('RETIGAN_DATA', raising=False)
    if value is not None: monkeypatch.setenv('RETIGAN_DATA', value)
    assert data_root() == expected


def test_readme_says_what_the_results_say():
    "The table of the evidence is the one that the evidence wrote, and every figure of its text stands in a table of results/."
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    text = text[text.index('## What the evidence says'):text.index('## The course')]
    assert (ROOT/'results'/'headline.md').read_text(encoding='utf-8').strip() in text
    tables = '\n'.join((ROOT/'results'/name).read_text(encoding='utf-8') for name in
                       ('evaluate_DRIVE.md', 'usefulness.md', 'usefulness_long.md', 'ablations_DRIVE.md', 'ablations_simulated.md'))
    known = [float(x) for x in re.findall(r'\d+\.\d+', tables)]
    words = '\n'.join(line for line in text.splitlines() if line.startswith('- '))
    figures = re.findall(r'(?<![\d.])(\d\.\d+)(?!\.?\d)', words)
    assert len(figures) > 8 and [x for x in figures if not any(f'{v:.{len(x) - 2}f}' == x for v in known)] == []
    shares = re.findall(r'(\d+) %', words)
    assert shares and [x for x in shares if not any(round(100*v) == int(x) for v in known)] == []
