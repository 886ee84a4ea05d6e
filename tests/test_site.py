"""The course site, as a reader meets it on a phone and at a desk."""
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from make_site import sidebar_label
from notebooks import chapters, colab_url, settings

PAGES = ['index'] + [path.stem for path in chapters()]
WIDTHS = {'phone': (390, 844), 'desktop': (1280, 900)}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def url(site):
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.fixture(params=WIDTHS, scope='module')
def page(request, browser, url):
    width, height = WIDTHS[request.param]
    context = browser.new_context(viewport={'width': width, 'height': height}, base_url=url)
    context.route('**/*', lambda route: route.continue_() if route.request.url.startswith(url) else route.abort())
    context.set_default_timeout(60_000)       # a long page takes a slow machine its time
    page = context.new_page()
    page.size_name = request.param
    yield page
    context.close()


def open_page(page, name):
    page.goto(f'/{name}.html', wait_until='load')
    return page


def test_the_builder_warns_of_nothing(site):
    log = (site.parent/'log.txt').read_text().splitlines()
    assert not [line for line in log if 'WARNING' in line or 'ERROR' in line], '\n'.join(log)


@pytest.mark.parametrize('name', PAGES)
def test_page_fits_and_its_pictures_speak(page, name, tmp_path):
    open_page(page, name)
    page.screenshot(path=tmp_path/f'{name}-{page.size_name}.png', full_page=True)
    overflow = page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')
    assert overflow <= 0, f'{name} is {overflow} px wider than the {page.size_name} screen'
    wide = page.evaluate('''() => [...document.querySelectorAll('article.bd-article img')].filter(
        i => i.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !i.closest('table')).map(i => i.src)''')
    assert not wide, f'{name}: pictures leave the screen: {wide}'
    mute = page.evaluate("[...document.querySelectorAll('article.bd-article img')].filter(i => !i.alt.trim() || i.alt.startsWith('_images')).map(i => i.src)")
    assert not mute, f'{name}: pictures without alternative text: {mute}'


@pytest.mark.parametrize('name', PAGES)
def test_no_directive_and_no_hidden_code_is_shown(site, name):
    text = (site/f'{name}.html').read_text(encoding='utf-8')
    assert '#| ' not in text.replace('<code class="docutils literal notranslate"><span class="pre">#|', '')
    assert 'pip install -q retigan' not in re.sub('<[^>]+>', '', text)   # the guarded install cell is hidden in every notebook


def test_sidebar_is_in_course_order(page):
    open_page(page, 'index')
    links = page.eval_on_selector_all('nav.bd-links a.reference.internal', 'a => a.map(x => x.getAttribute("href").split("#")[0])')
    assert links == [''] + [f'{path.stem}.html' for path in chapters()]        # '': this page
    labels = page.eval_on_selector_all('nav.bd-links a.reference.internal', 'a => a.map(x => x.textContent.trim())')
    assert labels == [settings()['lib_name']] + [sidebar_label(path) for path in chapters()]


def test_previous_and_next_walk_the_course(page):
    open_page(page, 'index')
    seen = ['index']
    while page.locator('a.right-next').count():
        page.locator('a.right-next').click()
        seen.append(page.url.rsplit('/', 1)[1].split('.')[0])
        assert page.locator('a.left-prev').get_attribute('href').startswith(seen[-2])
    assert seen == PAGES


@pytest.mark.parametrize('path', chapters(), ids=lambda path: path.stem)
def test_colab_opens_this_notebook(page, path):
    open_page(page, path.stem)
    links = page.eval_on_selector_all('a[href*="colab.research.google.com"]', 'a => a.map(x => x.href)')
    assert links and set(links) == {colab_url(path, settings())}


def test_search_finds_a_chapter_without_a_network(page):
    page.goto('/search.html?q=fundus', wait_until='load')
    page.locator('#search-results li a').first.wait_for(timeout=15000)
    found = page.eval_on_selector_all('#search-results li a', 'a => a.map(x => x.getAttribute("href"))')
    assert any(link.startswith('00_images') for link in found)
