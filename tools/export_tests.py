"""Write tests/test_<module>.py from the `#| test NAME` cells of the library notebooks.

nbdev exports modules, not tests. A cell that begins with `#| test NAME` becomes the function `test_NAME`; a cell that
begins with `#| test_setup` (imports, fixtures, helpers) goes to the top of the file. A library notebook without a test is an error.

    python tools/export_tests.py
"""
import re
import sys
import textwrap
from pathlib import Path

from nbdev.config import get_config
from nbdev.process import NBProcessor

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Exported from {nb} by tools/export_tests.py: edit the notebook.\n"


def first_directive(source: str) -> tuple[str, str]:
    """The first `#| name argument` of a cell, as (name, argument); ('', '') where there is none."""
    match = re.match(r"\s*#\|\s*(\S+)[ \t]*(.*)", source)
    return (match.group(1), match.group(2).strip()) if match else ("", "")


def test_module(notebook: Path) -> tuple[str, str]:
    """(module, text of its test file) of one notebook; ('', '') where it exports no module."""
    # `#|test`, and `#| test: name` with a colon, would be passed over in silence: refuse them.
    cells = [c.source for c in NBProcessor(notebook, process=True, rm_directives=False).nb.cells if c.cell_type == "code"]
    module = next((arg for name, arg in map(first_directive, cells) if name == "default_exp"), "")
    if not module:
        return "", ""
    setup, tests, names = [], [], set()
    for source in cells:
        name, arg = first_directive(source)
        if name.startswith("test") and (name not in ("test", "test_setup") or (name == "test" and not arg.isidentifier())):
            raise SystemExit(f"{notebook}: cell {source.splitlines()[0]!r}: write '#| test NAME' or '#| test_setup'")
        body = source.split("\n", 1)[1] if "\n" in source else ""
        if name == "test_setup":
            setup.append(body.strip())
        elif name == "test":
            if arg in names:
                raise SystemExit(f"{notebook}: two tests are named {arg!r}: rename one")
            names.add(arg)
            tests.append(f"def test_{arg}():\n{textwrap.indent(body.strip(), '    ')}\n")
    if not tests:
        raise SystemExit(f"{notebook}: exports mfpo.{module} but has no '#| test NAME' cell: add one")
    head = HEADER.format(nb=notebook.relative_to(ROOT).as_posix())
    imports = f"from mfpo.{module} import *  # noqa: F403\n"
    return module, "\n".join([head + imports, *(s + "\n" for s in setup), "", "\n\n".join(tests)])


def main() -> None:
    written = set()
    for notebook in sorted((ROOT / get_config().nbs_path.name).rglob("*.ipynb")):
        if "experiments" in notebook.parts or ".ipynb_checkpoints" in notebook.parts:
            continue
        module, text = test_module(notebook)
        if module:
            target = ROOT / "tests" / f"test_{module.replace('.', '_')}.py"
            target.write_text(text, encoding="utf-8")
            written.add(target)
    for stale in set((ROOT / "tests").glob("test_*.py")) - written:
        if stale.read_text(encoding="utf-8").startswith("# Exported from"):
            stale.unlink()
            print(f"removed {stale.relative_to(ROOT)}: its notebook is gone", file=sys.stderr)


if __name__ == "__main__":
    main()
