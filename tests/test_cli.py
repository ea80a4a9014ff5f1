# Exported from nbs/cli.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.cli import *  # noqa: F403

import contextlib, io, subprocess, sys


def called(*words):
    """(exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:  # argparse ends the program itself
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def test_help_version_and_wrong_calls():
    import mfpo

    code, out, _ = called("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    assert called("--version")[:2] == (0, mfpo.__version__ + "\n")
    assert called()[0] == 2 and called("trian")[0] == 2 and "'trian' is no command" in called("trian")[2]
    for name in COMMANDS:
        assert called(name)[0] == 2, "without its options a command says which it needs"


def test_input_that_cannot_be_used_ends_with_1_and_no_traceback():
    code, _, err = called("negatives", "--rows", "no-such-rows.jsonl", "--output", "unused.parquet")
    assert code == 1 and "\nmfpo negatives: error: no-such-rows.jsonl: no such file" in err and "Traceback" not in err


def test_help_loads_no_torch():
    code = (
        "import sys; from mfpo.cli import main\n"
        "for words in (['--help'], ['negatives', '--help'], ['difficulty', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as ended: assert ended.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_the_module_is_the_program():
    done = subprocess.run([sys.executable, "-m", "mfpo.cli", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("usage: mfpo COMMAND")
