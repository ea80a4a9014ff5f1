"""Write only the code of a pipeline notebook: what its DVC stage depends on.

A stage that depended on the notebook itself would run again when a sentence of its prose is edited. So a cheap stage
extracts the code, and the expensive one depends on that.

    python tools/code_cells.py nbs/experiments/train.ipynb build/code/train.py
"""
import argparse
import ast
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


class NotebookError(ValueError):
    """A pipeline notebook that the stages cannot run; the message names the notebook and the remedy."""


def read_notebook(notebook: str | Path) -> nbformat.NotebookNode:
    """The notebook, or `NotebookError` where there is none or the file is not one."""
    try:
        return nbformat.read(notebook, as_version=4)
    except (OSError, ValueError) as error:
        raise NotebookError(f"{notebook}: cannot be read as a notebook: {error}") from error


def parameters_cell(notebook: str | Path) -> str:
    """The source of the one cell tagged `parameters`; papermill itself would only warn and run the notebook's defaults."""
    tagged = [c for c in read_notebook(notebook).cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise NotebookError(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag exactly one code cell so (in JupyterLab: "
                            "Property Inspector, Cell Tags)")
    return tagged[0].source


def parameter_names(notebook: str | Path) -> set[str]:
    """The names that the `parameters` cell assigns, and thus all that a stage may set."""
    names = set()
    for node in ast.parse(parameters_cell(notebook)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return names


def code_of(notebook: str | Path) -> str:
    """All code cells, in order, as one text that changes only when the code does. Raises `NotebookError`."""
    parameters_cell(notebook)
    cells = [c for c in read_notebook(notebook).cells if c.cell_type == "code"]
    if any(c.outputs or c.execution_count for c in cells):
        raise NotebookError(f"{notebook}: has stored outputs; a pipeline notebook is committed without them: run "
                            f"'jupyter nbconvert --clear-output --inplace {notebook}'")
    sources = ["\n".join(line.rstrip() for line in c.source.strip().splitlines()) for c in cells]
    return "\n\n# %%\n".join(["# The code of " + Path(notebook).name, *filter(None, sources)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path, help="a notebook under nbs/experiments")
    parser.add_argument("output", type=Path, help="the .py file to write")
    args = parser.parse_args()
    try:
        text = code_of(args.notebook)
    except NotebookError as error:
        sys.exit(f"error: {error}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
