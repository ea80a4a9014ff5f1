from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read_string((Path(__file__).parent / "settings.ini").read_text(encoding="utf-8"))
cfg = ini["DEFAULT"]
END = "_requirements"
extras = {name.removesuffix(END): value.split() for name, value in cfg.items() if name.endswith(END)}
# The tests try everything, but for what pins other releases of what the pipeline needs (lmms-eval), and word lists that come
# without their data (NLTK).
extras["dev"] = [need for name, needs in extras.items() if name not in ("lmms", "benchmarks") for need in needs]
setup(
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    keywords=cfg["keywords"].split(),
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "lmms_eval.models": cfg["lmms_models"].split()},
)
