#!/usr/bin/env python3
"""Build the course site from the committed outputs, with jupyter-book 1; nothing is executed.

    python tools/make_site.py [--out _site]

Hidden cells are left out and `#|` lines are not shown; `#| echo: false` shows a cell's output only,
`#| code-fold: true` folds its code, `#| fig-alt:` becomes the pictures' alternative text. Pages stand in
course order, each with a Colab button. A warning of the builder about our text is an error here.
Open OUT/index.html in a browser; search works without a server. Formulas need MathJax from its CDN.
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from notebooks import ROOT, chapters, directives, has_image, is_hidden, read, settings, shows_source, title, without_directives

LINK_UP = re.compile(r'(?<=\]\()\.\./([^)\s]+)')
BADGE = re.compile(r'\[!\[Open In Colab\]\([^)]*\)\]\(([^)]*)\)')
CSS = '''
pre { font-size: 0.8rem; }
table { display: block; max-width: 100%; overflow-x: auto; }
.bd-article img { max-width: 100%; height: auto; }
.bd-article :not(pre) > code { overflow-wrap: anywhere; }
'''


def config(values: dict) -> dict:
    "What jupyter-book reads as _config.yml."
    theme = {
        'repository_url': values['git_url'], 'repository_branch': values['branch'], 'path_to_docs': values['nbs_path'],
        'use_repository_button': True, 'use_issues_button': True,
        'use_download_button': False,           # a page holds less than its notebook: hidden cells are missing
        'navbar_persistent': [],                # the sidebar has a search field already
        'home_page_in_toc': True,
        'launch_buttons': {'colab_url': 'https://colab.research.google.com', 'notebook_interface': 'classic'},
    }
    return {
        'title': values['lib_name'], 'author': values['author'], 'copyright': values['copyright'].split(',')[0],
        'only_build_toc_files': True,
        'execute': {'execute_notebooks': 'off'},
        'html': {'baseurl': values['doc_host'] + values['doc_baseurl']},
        'sphinx': {'config': {'html_theme_options': theme, 'html_copy_source': False, 'suppress_warnings': ['mystnb.unknown_mime_type']}},
    }


def page(nb, values: dict):
    "The notebook as its page shows it."
    nb.cells = [cell for cell in nb.cells if not is_hidden(cell)]
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = BADGE.sub(r'[Open in Colab](\1)', cell.source)        # the badge is a picture from another server
            cell.source = LINK_UP.sub(lambda m: f"{values['git_url']}/blob/{values['branch']}/{m[1]}", cell.source)
            continue
        found, tags = directives(cell.source), []
        if has_image(cell) and (alt := found.get('fig-alt')): cell.metadata['mystnb'] = {'image': {'alt': alt}}
        if not shows_source(cell): tags.append('remove-input')
        if found.get('code-fold', '').lower() in ('true', 'show'): tags.append('hide-input')
        if tags: cell.metadata['tags'] = tags
        cell.source = without_directives(cell.source)
    nb.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'ipython3'}
    nb.metadata['kernelspec'] = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    return nb


def sidebar_label(path: Path) -> str:
    "A chapter's number and title: `00 Fundus images`."
    return f'{path.stem[:2]} {title(read(path))}'


def write_book(book: Path, root: Path = ROOT):
    "The folder jupyter-book builds from: pages, order, settings, style."
    values = settings(root)
    (book/'_static').mkdir(parents=True)
    (book/'_static'/'course.css').write_text(CSS)
    pages = [root/'nbs'/'index.ipynb'] + chapters(root)
    for path in pages: nbformat.write(page(read(path), values), book/path.name)
    # JSON is YAML: no YAML writer is needed
    (book/'_config.yml').write_text(json.dumps(config(values), indent=1))
    order = [{'file': path.stem, 'title': sidebar_label(path)} for path in pages[1:]]
    (book/'_toc.yml').write_text(json.dumps({'format': 'jb-book', 'root': 'index', 'chapters': order}, indent=1))


def build(out: Path, root: Path = ROOT) -> list[str]:
    "Build into `out`; returns the builder's warnings. Raises RuntimeError with its log when it fails."
    with tempfile.TemporaryDirectory() as temp:
        book = Path(temp)/'book'
        write_book(book, root)
        command = [sys.executable, '-c', 'from jupyter_book.cli.main import main; main()', 'build', str(book)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        html = book/'_build'/'html'
        log = done.stdout + done.stderr
        if done.returncode or not (html/'index.html').is_file(): raise RuntimeError(f'jupyter-book failed:\n{log[-4000:]}')
        if out.exists(): shutil.rmtree(out)
        shutil.copytree(html, out, ignore=shutil.ignore_patterns('.buildinfo', '*.doctree'))
        plain = re.sub(r'\x1b\[[0-9;]*m', '', log).replace(str(book), 'nbs')
        return [line for line in plain.splitlines() if re.search(r'\b(WARNING|ERROR)\b', line)]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT/'_site', help='folder of the site, replaced when it exists (default: _site)')
    out = parser.parse_args(argv).out
    if out.exists() and not (out/'searchindex.js').is_file() and any(out.iterdir()):
        print(f'{out}: holds something that is not a site; name an empty or new folder', file=sys.stderr)
        return 2
    try: warnings = build(out)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print('\n'.join(warnings + [f'site with {len(list(out.glob("*.html")))} pages in {out}']))
    return bool(warnings)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
