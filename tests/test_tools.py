"""The tools that write: the runner leaves a broken notebook alone, pages and README show what they should."""
import base64
import json
import subprocess
import sys

import make_readme
import make_site
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebooks import ROOT, fingerprint, read, settings


WIDGET = '''from IPython.display import display
display({'application/vnd.jupyter.widget-view+json': {'model_id': '1', 'version_major': 2, 'version_minor': 0}, 'text/plain': '0%'}, raw=True)'''


def save(path, *cells):
    nbformat.write(new_notebook(cells=list(cells), metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}), path)
    return path


def run_notebook(path, env):
    "tools/run_notebook.py as a user calls it, from another folder."
    return subprocess.run([sys.executable, str(ROOT/'tools'/'run_notebook.py'), path.name], cwd=path.parent, env=env, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL)


def test_runner_writes_outputs_and_their_fingerprint(tmp_path, child_env):
    path = save(tmp_path/'a.ipynb', new_code_cell('print(6*7)', id='six'), new_code_cell('#| eval: false\n1/0', id='never'),
                new_code_cell(WIDGET, id='bar'))
    done = run_notebook(path, child_env)
    assert done.returncode == 0, done.stderr
    nb = read(path)
    assert nb.cells[0].outputs[0].text == '42\n'
    assert [cell.outputs for cell in nb.cells[1:]] == [[], []]
    assert nb.metadata.executed == fingerprint(nb) and 'widgets' not in nb.metadata
    assert [cell.metadata for cell in nb.cells] == [{}, {}, {}]


def test_runner_leaves_a_failing_notebook_alone(tmp_path, child_env):
    path = save(tmp_path/'b.ipynb', new_code_cell('print(1)', id='one'), new_code_cell('raise KeyError("lost")', id='two'))
    before = path.read_bytes()
    done = run_notebook(path, child_env)
    assert done.returncode == 1 and 'KeyError' in done.stderr and 'b.ipynb' in done.stderr
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['b.ipynb']


def test_runner_refuses_what_is_no_notebook(tmp_path, child_env):
    (tmp_path/'c.txt').touch()
    done = run_notebook(tmp_path/'c.txt', child_env)
    assert done.returncode == 2 and 'c.txt: not a notebook' in done.stderr


def picture():
    return new_output('display_data', {'image/png': base64.b64encode(b'png').decode(), 'text/plain': '<Figure>'})


@pytest.fixture
def cells():
    return [new_code_cell('#| default_exp x', id='a'), new_code_cell('#| hide\nsecret = 1', id='b'),
            new_markdown_cell('See [one](01_x.ipynb), [file](../LICENSE), [two](#two), [web](https://a.org).', id='c'),
            new_code_cell('#| echo: false\n#| fig-alt: An eye.\ndraw()', id='eye', outputs=[picture(), picture()]),
            new_code_cell('#| export\n#| code-fold: true\ndef f(): return 1', id='d', outputs=[new_output('stream', text='hello\n')])]


def test_readme_of_a_notebook(cells, tmp_path):
    files = make_readme.convert(save(tmp_path/'index.ipynb', *cells))
    assert sorted(files) == ['README.md', 'assets/eye-1.png', 'assets/eye.png'] and files['assets/eye.png'] == b'png'
    text = files['README.md'].decode()
    assert '[one](nbs/01_x.ipynb), [file](LICENSE), [two](#two), [web](https://a.org)' in text
    assert '![An eye.](assets/eye.png)' in text and '![An eye.](assets/eye-1.png)' in text
    assert 'def f(): return 1' in text and '    hello' in text
    assert not any(word in text for word in ('#|', 'secret', 'draw()', '<Figure>'))


def test_page_of_a_notebook(cells):
    nb = make_site.page(new_notebook(cells=cells), settings())
    text, eye, code = nb.cells
    assert f"[file]({settings()['git_url']}/blob/{settings()['branch']}/LICENSE)" in text.source and '[one](01_x.ipynb)' in text.source
    assert eye.metadata == {'mystnb': {'image': {'alt': 'An eye.'}}, 'tags': ['remove-input']}
    assert code.source == 'def f(): return 1' and code.metadata.tags == ['hide-input']


def test_site_does_not_replace_a_folder_of_something_else(tmp_path):
    (tmp_path/'thesis.txt').write_text('years of work')
    assert make_site.main(['--out', str(tmp_path)]) == 2
    assert (tmp_path/'thesis.txt').read_text() == 'years of work'


def test_the_book_is_in_course_order(tmp_path):
    make_site.write_book(tmp_path/'book')
    order = [entry['file'] for entry in json.loads((tmp_path/'book'/'_toc.yml').read_text())['chapters']]
    assert order == sorted(order) and order[0] == '00_images'
