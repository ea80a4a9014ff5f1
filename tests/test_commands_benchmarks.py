# Exported from nbs/commands/benchmarks.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.benchmarks import *  # noqa: F403

import json
import random
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from mfpo.commands.benchmarks import BenchmarkOptions, main
from mfpo.commands.options import BadInput


def pope_files(folder, pictures=4):
    """A small POPE in the published form, and its pictures."""
    folder = Path(folder)
    (folder / "val2014").mkdir(parents=True)
    for split in ("random", "adversarial"):
        lines = []
        for k in range(pictures):
            Image.new("RGB", (64, 64), (50 * k, 100, 200)).save(folder / "val2014" / f"{k}.jpg")
            lines += [{"question_id": 2 * k + yes, "image": f"{k}.jpg", "text": f"is there a {'dog' if yes else 'cup'} ?", "label": "yes" if yes else "no"} for yes in (0, 1)]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--benchmark", "pope", "--data", str(folder)]


def test_the_whole_way_from_a_model_to_scores():
    from mfpo.benchmarks.pope import load_pope
    from mfpo.evaluate.answers import generate_answers
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.model.vlm import save_vlm

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words, out = pope_files(folder / "pope"), folder / "out"
        model, processor = small_vlm_for_tests()
        save_vlm(model, processor, folder / "model")
        run = [*words, "--model_name_or_path", str(folder / "model"), "--output_dir", str(out), "--use_cpu", "--dtype", "float32",
               "--max_new_tokens", "4", "--per_device_eval_batch_size", "3", "--resamples", "50"]
        main([*run, "--limit", "5", "--partial"])
        assert len((out / "answers.jsonl").read_text().splitlines()) == 5
        first = (out / "answers.journal").read_bytes()
        main(run)  # goes on where the trial stopped
        assert (out / "answers.journal").read_bytes().startswith(first)
        items = load_pope(folder / "pope")
        expected = generate_answers(
            model, processor, [Image.open(folder / "pope" / "val2014" / i.image).convert("RGB") for i in items], [i.question for i in items], max_new_tokens=4
        )
        lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
        assert [line["answer"] for line in lines] == expected and [line["id"] for line in lines] == [i.id for i in items]
        record = json.loads((out / "scores.json").read_text())
        assert record["count"] == 16 and set(record["how"]["splits"]) == {"random", "adversarial"}
        assert record["made_with"]["files"].keys() == {"coco_pope_random.json", "coco_pope_adversarial.json"}
        assert len(record["made_with"]["not_published"]) == 1  # random's checksum is known, and this is another file
        assert "| POPE |" in (out / "scores.md").read_text() and len((out / "items.jsonl").read_text().splitlines()) == 16
        again = folder / "again"
        main([*words, "--answers", str(out / "answers.jsonl"), "--output_dir", str(again), "--resamples", "50"])
        assert json.loads((again / "scores.json").read_text())["metrics"] == record["metrics"]
        assert (again / "scores.md").read_bytes() == (out / "scores.md").read_bytes()
        with pytest.raises(BadInput, match="(?s)answers.journal belongs to another run.*asking.max_new_tokens: 4 there, 5 here"):
            main([*run, "--max_new_tokens", "5"])
        main([*run[:-6], "--max_new_tokens", "2", "--overwrite", "--contrast", "--contrast_alpha", "0.5"])
        assert json.loads((out / "scores.json").read_text())["made_with"]["answers"]["model"]["contrast"] == [0.5, 0.1, 500]


def test_wrong_calls_say_what_to_do():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = pope_files(folder / "pope")
        good = {"id": "random/0", "answer": "no"}
        path = folder / "a.json"
        path.write_text(json.dumps([good]))
        out = ["--output_dir", str(folder / "out")]
        for extra, reason in (
            (["--answers", str(path)], "15 of 16 items have no answer.*--partial"),
            (["--answers", str(folder / "none")], "none"),
            (["--answers", str(path), "--benchmark_options", '{"split": ["random"]}'], "no option split; there are splits"),
            (["--answers", str(path), "--benchmark_options", '{"splits": ["popular"]}'], "coco_pope_popular.json is not in"),
            (["--model_name_or_path", str(folder)], "holds no config.json"),
            (["--endpoint_model", "m"], "OPENAI_BASE_URL"),
            (["--model_name_or_path", "x/y", "--images", str(folder / "out2")], "is no folder"),
        ):
            with pytest.raises(BadInput, match=f"(?s){reason}"):
                main([*words, *out, *extra])
        (folder / "pope" / "val2014" / "0.jpg").unlink()
        with pytest.raises(BadInput, match="1 of 4 pictures are missing .0.jpg.*COCO 2014 validation images"):
            main([*words, *out, "--model_name_or_path", str(folder)])
        assert not list((folder / "out").glob("*"))  # runs that came to nothing leave nothing
        with pytest.raises(BadInput, match="(?s)holds none of coco_pope_random.json.*licence: MIT"):
            main(["--benchmark", "pope", "--data", str(folder / "out"), "--answers", str(path)])
        main([*words, *out, "--answers", str(path), "--partial", "--resamples", "5"])
        assert json.loads((folder / "out" / "scores.json").read_text())["count"] == 1
        for extra in ([], ["--answers", "a", "--endpoint_model", "m"], ["--answers", "a", "--contrast"], ["--answers", "a", "--limit", "0"],
                      ["--answers", "a", "--benchmark_options", "["], ["--answers", "a", "--benchmark_options", "[]"], ["--answers", "a", "--tempreature", "1"]):
            with pytest.raises(SystemExit) as caught:
                main([*words, *extra])
            assert caught.value.code == 2
        with pytest.raises(BadInput, match="'vqa' is unknown"):
            main(["--benchmark", "vqa", "--data", name, "--answers", str(path)])


def test_a_judge_is_asked_once_and_named():
    import http.server
    import os
    import threading

    from mfpo.benchmarks.scenes import write_mmhal
    from mfpo.data.scenes import WorldConfig, scene_rows

    pytest.importorskip("openai")


    class Judge(http.server.BaseHTTPRequestHandler):
        asked = 0

        def do_POST(self):
            Judge.asked += 1
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            good = self.headers["Authorization"] == "Bearer the-key" and body["temperature"] == 0 and body["model"] == "a-judge"
            data = json.dumps({"choices": [{"message": {"content": "Fine.\nRating: 4"}, "finish_reason": "stop"}]} if good else {"error": "no"}).encode()
            self.send_response(200 if good else 401)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass


    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = {name: os.environ.get(name) for name in ("OPENAI_API_KEY", "NO_PROXY")}
    try:
        os.environ |= {"OPENAI_API_KEY": "the-key", "NO_PROXY": "127.0.0.1"}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = list(scene_rows(WorldConfig(test=96), "test"))
            write_mmhal(rows, folder / "mmhal")
            path, out = folder / "answers.json", folder / "out"
            path.write_text(json.dumps([{"id": row["id"], "answer": row["caption"]} for row in rows]))
            words = ["--benchmark", "mmhal", "--data", str(folder / "mmhal"), "--answers", str(path), "--output_dir", str(out), "--resamples", "50"]
            with pytest.raises(BadInput, match="MMHal-Bench is scored by a judge: give --judge_model"):
                main(words)
            asked = [*words, "--judge_model", "a-judge", "--judge_endpoint", f"http://127.0.0.1:{server.server_port}/v1", "--backoff", "0"]
            main(asked)
            first = (out / "scores.json").read_text()
            record = json.loads(first)
            assert record["metrics"]["score"]["printed"] == 4 and record["how"]["judge"] == "a-judge" and record["how"]["date"]
            assert Judge.asked == 96
            main(asked)  # every reply is there: nobody is asked, and nothing changes
            assert Judge.asked == 96 and (out / "scores.json").read_text() == first
            assert not any(b"the-key" in file.read_bytes() for file in out.iterdir())
            official = json.loads((out / "mmhal_official.json").read_text())
            assert [row["model_answer"] for row in official] == [row["caption"] for row in rows]
            os.environ["OPENAI_API_KEY"] = "another-key"
            with pytest.raises(BadInput, match="(?s)HTTP 401.*OPENAI_API_KEY") as caught:
                main([*asked, "--overwrite", "--output_dir", str(folder / "other")])
            assert "another-key" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
