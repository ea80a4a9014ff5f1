from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read_string((Path(__file__).parent / "settings.ini").read_text(encoding="utf-8"))
cfg = ini["DEFAULT"]
figures = cfg["figures_requirements"].split()
setup(
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    keywords=cfg["keywords"].split(),
    install_requires=cfg["requirements"].split(),
    extras_require={"figures": figures, "dev": cfg["dev_requirements"].split() + figures},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)
