"""Every notebook but the pipeline's runs from top to bottom.

Skipped are cells marked with one of `tst_flags` in settings.ini, and `#| test NAME` cells, which are exported to this folder and
run as tests of their own (`nbdev_test` runs them in their notebook).
"""

import sys
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not {"experiments", ".ipynb_checkpoints"} & set(p.parts)
)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook(notebook, monkeypatch, capfd):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # a notebook is no test: it may ask
    passed, _ = run_notebook(ROOT / notebook, skip_flags=[*get_config().tst_flags.split(), "test"], showerr=True)
    assert passed, capfd.readouterr().err[-6000:]
