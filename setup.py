"""Build the package from settings.ini: the one place where name, version and requirements stand."""
from configparser import ConfigParser
from pathlib import Path

import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']


def words(key): return cfg.get(key, '').split()


setuptools.setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    author=cfg['author'], author_email=cfg['author_email'], license=cfg['license'],
    url=cfg['git_url'], keywords=words('keywords'),
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    python_requires='>=' + cfg['min_python'],
    packages=setuptools.find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    include_package_data=True,
    install_requires=words('requirements'),
    extras_require={'dev': words('dev_requirements')},
    entry_points={
        'console_scripts': words('console_scripts'),
        'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    classifiers=[
        'Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
        'Intended Audience :: Education', 'Natural Language :: English',
        'Topic :: Scientific/Engineering :: Image Processing',
        *[f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)],
    ],
    zip_safe=False)
