"""The gate holds for every notebook and module, and each of its rules still bites.

The second half breaks one good notebook in one way at a time: a rule that no longer notices fails here.
"""
import base64
from pathlib import Path

import gate
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebooks import colab_badge, fingerprint, notebooks, settings


@pytest.mark.parametrize('path', notebooks(), ids=lambda path: path.name)
def test_notebook_passes_the_gate(path):
    problems = gate.notebook_problems(path)
    if problems: pytest.fail('\n'.join(f'{path.name}: {problem}' for problem in problems), pytrace=False)


@pytest.mark.parametrize('path', gate.modules(), ids=lambda path: path.stem)
def test_module_stands_on_its_floor(path):
    assert gate.module_problems(path.stem, path.read_text(encoding='utf-8')) == []


# A lesson that passes, to be broken

PATH = Path('07_lens.ipynb')
PICTURE = {'image/png': base64.b64encode(b'not looked at').decode()}
EXERCISES = '\n'.join(f'**{i}.** Do it.\n\n<details>\n<summary>Solution</summary>\n\nDone.\n</details>\n' for i in range(3))


def lesson():
    "A small notebook that the gate accepts."
    md, code = new_markdown_cell, new_code_cell
    cells = [
        code('#| default_exp lens', id='default-exp'),
        md(f'# A lens\n\n> What a lens does.\n\n{colab_badge(PATH, settings())}', id='title'),
        md('## In this chapter you will\n\n- see\n- hear\n- try', id='goals'),
        md('## Before you start\n\nIt takes a minute on a CPU.', id='before'),
        code('#| export\ndef bend(x): return 2*x', id='bend'),
        code('#| fig-alt: A bent line.\nbend(1)', id='use', outputs=[new_output('display_data', PICTURE)]),
        code('bend(2)', id='print', outputs=[new_output('execute_result', {'text/plain': '4'}), new_output('stream', text='https://a.org/home/x is fine\n')]),
        md('## Where it fails\n\nIt fails with very thick lenses.', id='fails'),
        md('## Summary\n\nA lens bends light by two.', id='summary'),
        md(f'## Exercises\n\n{EXERCISES}', id='exercises'),
        md('## References\n\nNewton, Opticks, 1704, book one.\n\nNext: `08_mirror`.', id='references'),
    ]
    nb = new_notebook(cells=cells)
    nb.metadata['executed'] = fingerprint(nb)
    return nb


def cell(nb, name): return next(c for c in nb.cells if c.id == name)
def show(nb, text): cell(nb, 'print').outputs.append(new_output('stream', text=text))
def edit(nb, name, old, new):
    assert old in cell(nb, name).source
    cell(nb, name).source = cell(nb, name).source.replace(old, new)
    nb.metadata['executed'] = fingerprint(nb)
def drop(nb, name):
    nb.cells.remove(cell(nb, name))
    nb.metadata['executed'] = fingerprint(nb)


BAD = {     # name: (rule, what is done to the good lesson, a word of the message)
    'old format': ('format_and_ids', lambda nb: nb.update(nbformat_minor=4), '4.4'),
    'no id': ('format_and_ids', lambda nb: nb.cells[2].pop('id'), 'without an id'),
    'same id': ('format_and_ids', lambda nb: nb.cells[2].update(id='title'), 'twice'),
    'not a cell': ('format_and_ids', lambda nb: nb.cells[2].update(source=3), 'valid'),
    'widgets': ('no_widgets', lambda nb: nb.metadata.update(widgets={}), 'widgets'),
    'progress bar': ('no_widgets', lambda nb: cell(nb, 'use').outputs.append(new_output('display_data', {
        'application/vnd.jupyter.widget-view+json': {'model_id': '1', 'version_major': 2, 'version_minor': 0}, 'text/plain': '0%|'})), 'widget'),
    'stderr': ('clean_outputs', lambda nb: cell(nb, 'use').outputs.append(new_output('stream', name='stderr', text='loading')), 'stderr'),
    'too big': ('size', lambda nb: show(nb, 'x' * 500_000), '500,000'),
    'home path': ('clean_outputs', lambda nb: show(nb, 'saved to /ho' + 'me/ada/x.png'), 'path of one machine'),
    'root path': ('clean_outputs', lambda nb: show(nb, "PosixPath('/ro" + "ot/x')"), 'path of one machine'),
    'temporary path': ('clean_outputs', lambda nb: show(nb, '/tm' + 'p/abc/x.png'), 'path of one machine'),
    'file url': ('clean_outputs', lambda nb: show(nb, 'file:///ho' + 'me/ada/x.png'), 'path of one machine'),
    'mac path': ('clean_outputs', lambda nb: show(nb, '/Use' + 'rs/ada/x'), 'path of one machine'),
    'windows path': ('clean_outputs', lambda nb: show(nb, 'C:' + '\\Users\\ada'), 'path of one machine'),
    'path in html': ('clean_outputs', lambda nb: cell(nb, 'use').outputs.append(new_output('display_data', {'text/html': '<b>/ro' + 'ot/x</b>'})), 'path of one machine'),
    'traceback': ('clean_outputs', lambda nb: show(nb, 'Traceback (most recent call last):\n'), 'Traceback'),
    'warning': ('clean_outputs', lambda nb: show(nb, 'x.py:3: UserWarning: beware\n'), 'UserWarning'),
    'saved error': ('clean_outputs', lambda nb: cell(nb, 'print').outputs.append(new_output('error', ename='E', evalue='e', traceback=[])), 'error'),
    'edited after the run': ('executed_in_order', lambda nb: cell(nb, 'print').update(source='bend(3)'), 'not from the code'),
    'never run': ('executed_in_order', lambda nb: nb.metadata.pop('executed'), 'not from the code'),
    'run out of order': ('executed_in_order', lambda nb: [c.update(execution_count=n) for c, n in zip(gate.code_cells(nb), [1, 3, 2, 4])], 'top to bottom'),
    'a gap in the run': ('executed_in_order', lambda nb: [c.update(execution_count=n) for c, n in zip(gate.code_cells(nb), [1, 2, 3, 5])], 'top to bottom'),
    'no output': ('executed_in_order', lambda nb: [c.update(outputs=[]) for c in gate.code_cells(nb)], 'no output'),
    'mute picture': ('alt_text', lambda nb: edit(nb, 'use', '#| fig-alt: A bent line.\n', ''), 'fig-alt'),
    'empty alt text': ('alt_text', lambda nb: edit(nb, 'use', ' A bent line.', ''), 'fig-alt'),
    'dead link': ('links', lambda nb: edit(nb, 'title', '> What', '[next](99_nowhere.ipynb)\n\n> What'), '99_nowhere'),
    'other module': ('first_cell', lambda nb: edit(nb, 'default-exp', 'lens', 'glass'), 'default_exp lens'),
    'no default_exp': ('first_cell', lambda nb: drop(nb, 'default-exp'), 'default_exp lens'),
    'no title': ('opening', lambda nb: edit(nb, 'title', '# A lens', 'A lens'), 'Title'),
    'no one-line summary': ('opening', lambda nb: edit(nb, 'title', '> What', 'What'), 'summary'),
    'badge of another notebook': ('opening', lambda nb: edit(nb, 'title', PATH.name, '06_lens.ipynb'), 'badge'),
    'badge of another owner': ('opening', lambda nb: edit(nb, 'title', '/github/', '/github/x'), 'badge'),
    'two goals': ('structure', lambda nb: edit(nb, 'goals', '- see\n', ''), '2 goals'),
    'no goals': ('structure', lambda nb: drop(nb, 'goals'), 'In this chapter'),
    'no prerequisites': ('structure', lambda nb: drop(nb, 'before'), 'Before you start'),
    'no limits': ('structure', lambda nb: drop(nb, 'fails'), 'Where it fails'),
    'no summary': ('structure', lambda nb: drop(nb, 'summary'), 'Summary'),
    'empty summary': ('structure', lambda nb: edit(nb, 'summary', 'A lens bends light by two.', ''), 'empty'),
    'no exercises': ('structure', lambda nb: drop(nb, 'exercises'), 'Exercises'),
    'two solutions': ('structure', lambda nb: edit(nb, 'exercises', EXERCISES, EXERCISES.replace('<summary>Solution', '<summary>Hint', 1)), '2 exercises'),
    'unfolded solution': ('structure', lambda nb: edit(nb, 'exercises', EXERCISES, EXERCISES.replace('</details>', '', 1).replace('<details>', '', 1)), '2 exercises'),
    'no references': ('structure', lambda nb: drop(nb, 'references'), 'References'),
    'no next': ('structure', lambda nb: edit(nb, 'references', 'Next:', 'Then'), 'Next'),
    'sections out of order': ('structure', lambda nb: nb.cells.insert(2, nb.cells.pop(8)), 'order'),
    'long exported cell': ('exported_cells', lambda nb: edit(nb, 'bend', 'return 2*x', 'return (\n' + '\n' * 40 + '2*x)'), '42 lines'),
    'exported wildcard': ('exported_cells', lambda nb: edit(nb, 'bend', 'def', 'from math import *\ndef'), 'import *'),
}


def save(nb, folder) -> Path:
    "Written as JSON and not by nbformat.write, which would repair it."
    path = folder/PATH.name
    path.write_text(nbformat.v4.nbjson.JSONWriter().writes(nb), encoding='utf-8')
    return path


def test_the_good_lesson_passes(tmp_path):
    assert gate.notebook_problems(save(lesson(), tmp_path)) == []


def test_forty_exported_lines_pass(tmp_path):
    nb = lesson()
    edit(nb, 'bend', 'return 2*x', 'return (\n' + '\n' * 37 + '2*x)')
    assert gate.notebook_problems(save(nb, tmp_path)) == []


@pytest.mark.parametrize('rule, spoil, word', BAD.values(), ids=BAD.keys())
def test_the_gate_sees(rule, spoil, word, tmp_path):
    nb = lesson()
    spoil(nb)
    problems = gate.notebook_problems(save(nb, tmp_path))
    assert any(problem.startswith(rule + ':') and word in problem for problem in problems), problems or 'nothing noticed'
    assert {problem.split(':')[0] for problem in problems} == {rule}, problems


def test_every_rule_has_a_bad_notebook():
    assert {rule for rule, *_ in BAD.values()} == {rule.__name__ for rule in gate.EVERY_NOTEBOOK + gate.LESSONS}


MODULES = {
    'upward': ('simulate', 'from retigan.datasets import x', 'floor 3'),
    'sideways': ('unet', 'from retigan.losses import x', 'floor 1'),
    'upward, relative': ('images', 'from .cli import x', 'floor 6'),
    'upward, relative to the package': ('images', 'from . import cli', 'floor 6'),
    'upward, absolute package': ('images', 'from retigan import cli', 'floor 6'),
    'upward, inside a function': ('images', 'def f():\n    import retigan.simulate', 'floor 2'),
    'itself': ('images', 'import retigan.images', 'floor 1'),
    'no such module': ('cli', 'from retigan.utils import x', 'unknown'),
    'unknown module': ('utils', 'import os', 'no floor'),
    'eager OpenCV': ('images', 'import cv2', 'cv2'),
    'eager matplotlib in a try': ('images', 'try:\n    import matplotlib.pyplot as plt\nexcept ImportError: plt = None', 'matplotlib'),
    'eager widgets in a class': ('preview', 'class A:\n    from ipywidgets import x', 'ipywidgets'),
}


@pytest.mark.parametrize('name, source, word', MODULES.values(), ids=MODULES.keys())
def test_the_gate_sees_imports(name, source, word):
    problems = gate.module_problems(name, source)
    assert len(problems) == 1 and word in problems[0]


@pytest.mark.parametrize('source', ['from retigan.images import read_image', 'from . import images, __version__', 'def f():\n    import cv2, matplotlib.pyplot'])
def test_good_imports_pass(source):
    assert gate.module_problems('datasets', source) == []


def test_every_module_and_lesson_has_a_floor():
    assert {path.stem for path in gate.modules()} <= set(gate.FLOORS)
    lessons = {path.stem[3:] for path in notebooks() if path.stem[:2].isdigit()} - {name[3:] for name in gate.EXPORTS_NOTHING}
    assert lessons <= set(gate.FLOORS)
