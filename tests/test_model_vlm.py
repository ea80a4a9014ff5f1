# Exported from nbs/model/vlm.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.vlm import *  # noqa: F403

import tempfile
from pathlib import Path
import pytest
import torch
from PIL import Image
from mfpo.model.small import small_vlm_for_tests


def inputs_for(processor, question="describe the image ."):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return processor(text=[text], images=[Image.new("RGB", (64, 64), (200, 30, 30))], return_tensors="pt")


def test_what_is_saved_is_what_is_loaded():
    model, processor = small_vlm_for_tests()
    with tempfile.TemporaryDirectory() as folder:
        path = save_vlm(model, processor, Path(folder) / "model")
        assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= {
            p.name for p in path.iterdir()
        }
        again, processor_again = load_vlm(path)
        with pytest.raises(FileExistsError, match="exists already"):
            save_vlm(model, processor, path)
    before, after = inputs_for(processor), inputs_for(processor_again)
    assert all(torch.equal(before[k], after[k]) for k in before)
    with torch.no_grad():
        assert torch.equal(model.eval()(**before).logits, again(**after).logits)


def test_adapters_touch_the_language_model_only():
    from peft import get_peft_model
    model, _ = small_vlm_for_tests()
    # 3 layers of Llama with 7 linear maps each: q, k, v, o, gate, up, down.
    assert len(language_linears(model)) == 21
    adapted = get_peft_model(model, lora(model, r=4))
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all("language_model" in n and "lora_" in n for n in trained)
    model, _ = small_vlm_for_tests()
    adapted = get_peft_model(model, lora(model, r=4, projector=True))
    assert any("multi_modal_projector" in n and p.requires_grad for n, p in adapted.named_parameters())


def test_a_saved_adapter_is_loaded_on_its_base():
    from peft import get_peft_model
    model, processor = small_vlm_for_tests()
    with tempfile.TemporaryDirectory() as folder:
        base = save_vlm(model, processor, Path(folder) / "base")
        adapted = get_peft_model(model, lora(model, r=4)).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        save_vlm(adapted, processor, Path(folder) / "adapter")
        again, _ = load_vlm(base, adapter=Path(folder) / "adapter")
        plain, _ = load_vlm(base)
        inputs = inputs_for(processor)
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits, adapted(**inputs).logits)
            assert not torch.allclose(again(**inputs).logits, plain(**inputs).logits)


def test_wrong_places_are_named():
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(FileNotFoundError, match="holds no config.json"):
            load_vlm(folder)
        with pytest.raises(FileNotFoundError, match="is not a folder"):
            load_vlm(Path(folder) / "nothing")
        with pytest.raises(ValueError, match="dtype is 'float23'"):
            load_vlm(folder, dtype="float23")
        model, processor = small_vlm_for_tests()
        base = save_vlm(model, processor, Path(folder) / "base")
        with pytest.raises(FileNotFoundError, match="holds no adapter_config.json"):
            load_vlm(base, adapter=base)
