"""Run a pipeline notebook through papermill, as the DVC stages do.

    python tools/run_stage.py nbs/experiments/train.ipynb build/executed/train-mfpo-0.ipynb -p method mfpo -p base 0

The kernel is the running interpreter, whatever `python3` kernel the user has installed, on one thread, offline, in the
root of the project. Values are JSON where they parse as such (`3`, `1e-4`, `true`, `[1, 2]`) and plain text otherwise.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from code_cells import ROOT, NotebookError, parameter_names

KERNEL_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(ROOT),
    "TOKENIZERS_PARALLELISM": "false",
}
# A quarter of the time of importing torch and transformers is the garbage collector's, for nothing.
LESS_COLLECTING = "__import__('gc').set_threshold(20_000, 10, 10)"
TRACEBACK_LINES = 40


def value_of(text: str) -> object:
    """A parameter's value from the command line: JSON, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def install_kernel(folder: Path) -> None:
    """A kernel named `python3` that is this interpreter, found before any other: `JUPYTER_PATH` is looked at first."""
    spec = {
        "argv": [
            sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
            f"--IPKernelApp.exec_lines={LESS_COLLECTING}",
        ],
        "display_name": "python3",
        "language": "python",
        # A folder of its own, so that neither a user's start-up files nor a shared history file take part.
        "env": KERNEL_ENVIRONMENT | {"IPYTHONDIR": str(folder / "ipython")},
    }
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(folder)


def run_notebook(notebook: Path, output: Path, parameters: dict[str, object]) -> None:
    """Execute `notebook` with `parameters` into `output`.

    Raises `NotebookError` where a parameter is not assigned in the cell tagged `parameters`, and papermill's
    `PapermillExecutionError` where a cell fails; `output` then ends at that cell.
    """
    unknown = sorted(set(parameters) - parameter_names(notebook))
    if unknown:
        known = ", ".join(sorted(parameter_names(notebook)))
        raise NotebookError(
            f"{notebook}: the cell tagged 'parameters' does not assign {', '.join(unknown)}; it assigns {known}"
        )
    import papermill

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        install_kernel(Path(folder))
        papermill.execute_notebook(
            notebook, output, parameters, kernel_name="python3", language="python", cwd=ROOT,
            stderr_file=sys.stderr,  # what the notebook writes there, its progress bars, is seen at once
            shutdown_kernel="immediate",  # files are closed when the last cell has run; a graceful end takes 2 s more
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path, help="a notebook under nbs/experiments")
    parser.add_argument("output", type=Path, help="the executed notebook to write")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a name of the notebook's parameters cell; may be repeated",
    )
    args = parser.parse_args()
    os.chdir(ROOT)
    from papermill.exceptions import PapermillExecutionError

    try:
        run_notebook(args.notebook, args.output, {name: value_of(text) for name, text in args.parameters})
    except NotebookError as error:
        sys.exit(f"error: {error}")
    except PapermillExecutionError as error:
        trace = [re.sub(r"\x1b\[[0-9;]*m", "", line) for entry in error.traceback for line in entry.split("\n")]
        print("\n".join(trace[-TRACEBACK_LINES:]), file=sys.stderr)
        sys.exit(
            f"error: {args.notebook} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"what ran before is in {args.output}"
        )


if __name__ == "__main__":
    main()
