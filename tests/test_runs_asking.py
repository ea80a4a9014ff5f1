# Exported from nbs/runs/asking.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.asking import *  # noqa: F403


def test_a_model_is_asked_every_benchmark_once():
    import tempfile
    from pathlib import Path

    import pandas as pd

    from mfpo.benchmarks.scenes import write_amber, write_pictures, write_pope
    from mfpo.data.abilities import ability_words
    from mfpo.data.scenes import WorldConfig, scene_rows, world_words
    from mfpo.evaluate.answers import generate_answers
    from mfpo.model.small import build_small_vlm
    from mfpo.model.vlm import save_vlm
    from mfpo.runs.asking import ask_run, scene_items

    rows = list(scene_rows(WorldConfig(test=4), "test"))
    with tempfile.TemporaryDirectory() as folder:
        model, processor = build_small_vlm({*world_words(), *ability_words()})
        save_vlm(model, processor, Path(folder) / "model")
        write_pictures(rows, Path(folder) / "files" / "pictures")
        write_pope(rows, Path(folder) / "files")
        write_amber(rows, Path(folder) / "files")
        files = str(Path(folder) / "files")
        made = ask_run(str(Path(folder) / "model"), None, ["pope", "amber"], files, {"method": "base"}, f"{folder}/x/a.parquet", max_new_tokens=3)
        table = pd.read_parquet(made["answers"])
        items = [(name, item) for name in ("pope", "amber") for item in scene_items(name, files)]
    by_image = {f"{row['id']}.png": row["image"] for row in rows}
    expected = generate_answers(model.eval(), processor, [by_image[i.image] for _, i in items], [i.question for _, i in items], max_new_tokens=3)
    assert table["answer"].tolist() == expected and table["id"].tolist() == [i.id for _, i in items]
    assert set(table["method"]) == {"base"} and table["benchmark"].tolist() == [name for name, _ in items]
