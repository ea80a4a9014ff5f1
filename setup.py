from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read_string((Path(__file__).parent / "settings.ini").read_text(encoding="utf-8"))
cfg = ini["DEFAULT"]
END = "_requirements"
extras = {name.removesuffix(END): value.split() for name, value in cfg.items() if name.endswith(END)}
extras["dev"] = [need for needs in extras.values() for need in needs]  # the tests try everything
setup(
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    keywords=cfg["keywords"].split(),
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)
