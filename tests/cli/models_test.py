"""kvferry models: the table, inline models, config.json files."""
import json
import os

from harness import SOURCE, USAGE, Skip, good, main, refused, temporary_file


def describe(text):
    return good("models", "--model", text, "--json").json()["models"][0]


def config(**fields):
    base = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "num_hidden_layers": 4, "hidden_size": 512,
            "num_attention_heads": 8, "num_key_value_heads": 2}
    base.update(fields)
    return {key: value for key, value in base.items() if value is not ...}


def describe_config(text=None, **fields):
    path = temporary_file(text if text is not None else json.dumps(config(**fields)), ".json")
    try:
        return describe(path)
    finally:
        os.unlink(path)


def refuse_config(says, text=None, **fields):
    path = temporary_file(text if text is not None else json.dumps(config(**fields)), ".json")
    try:
        refused(USAGE, "models", "--model", path, "--json", says=["--model: " + path] + ([says] if isinstance(says, str) else says))
    finally:
        os.unlink(path)


def test_the_table_agrees_with_the_published_list():
    path = os.path.join(SOURCE, "..", "shared", "data", "models.json")
    if not os.path.exists(path):
        raise Skip("../shared/data/models.json is not here")
    built_in = {model["name"]: model for model in good("models", "--json").json()["models"]}
    with open(path) as file:
        published = json.load(file)["models"]
    for model in published:
        ours = built_in[model["name"]]
        for key in ("layers", "kv_heads", "head_dim", "dtype", "parts", "bytes_per_token"):
            assert ours[key] == model[key], (model["name"], key, ours[key], model[key])
        if "window" in model:
            assert ours["window"]["tokens"] == model["window"]["tokens"]
            assert len(ours["window"]["layer_ids"]) * 2 == model["layers"]
        if "state" in model:
            state = model["state"]
            assert ours["state"]["layers"] == state["layers"]
            assert ours["state"]["bytes_per_layer"] == state["conv_bytes_per_layer"] + state["ssm_bytes_per_layer"]
            sections = ours["state"]["sections"]
            assert [section["units"] for section in sections] == state["conv_sections_columns"] + [state["ssm_heads"]]
            assert sum(section["units"] * section["unit_bytes"] for section in sections[:-1]) == state["conv_bytes_per_layer"]
            assert sections[-1]["units"] * sections[-1]["unit_bytes"] == state["ssm_bytes_per_layer"]


def test_bytes_per_token_follow_from_the_geometry():
    size = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
    for model in good("models", "--json").json()["models"]:
        expected = model["layers"] * model["parts"] * model["kv_heads"] * model["head_dim"] * size[model["dtype"]]
        assert model["bytes_per_token"] == expected, model


def test_the_table_for_people():
    out = good("models").out
    assert "llama-3.1-8b" in out and "131,072" in out and "128 in 18" in out


def test_inline_models():
    model = describe("layers=4,heads=4,head_dim=128,dtype=fp32")
    assert (model["layers"], model["kv_heads"], model["head_dim"], model["bytes_per_token"]) == (4, 4, 128, 16384)
    model = describe("layers=6,heads=4,head_dim=128,dtype=int8,window=16:every=3")
    assert model["window"] == {"tokens": 16, "layer_ids": [0, 3]}
    model = describe("layers=2,head_dim=576,dtype=bf16,mla")
    assert (model["kv_heads"], model["parts"], model["bytes_per_token"]) == (1, 1, 2304)
    model = describe("layers=2,heads=4,head_dim=128,dtype=fp32,state=4:112:8x6+2x32")
    assert model["layers"] == 2 and model["state"]["layer_ids"] == [0, 2, 3, 5]
    assert model["state"]["bytes_per_request"] == 448


def test_inline_mistakes_name_the_field():
    refused(USAGE, "models", "--model", "layers=4,heads=4,head_dim=x,dtype=fp32", says="--model: head_dim: 'x' is not a whole number")
    refused(USAGE, "models", "--model", "layers=4,head=4,head_dim=1,dtype=fp32",
            says="--model: unknown model field 'head', did you mean 'heads'?")
    refused(USAGE, "models", "--model", "llama-3.2-1c", says="did you mean llama-3.2-1b?")
    refused(USAGE, "models", "--model", "no-such-model", "--json", says="'no-such-model' is no built-in model")
    refused(USAGE, "models", "--model", "layers=4,heads=4,head_dim=128,dtype=fp32,state=2:100:8x6", says=["100", "48"])


def test_llama_config():
    model = describe_config()
    assert (model["layers"], model["kv_heads"], model["head_dim"], model["dtype"]) == (4, 2, 64, "bf16")
    assert describe_config(head_dim=128)["head_dim"] == 128
    assert describe_config(num_key_value_heads=...)["kv_heads"] == 8
    assert describe_config(torch_dtype=..., dtype="float16")["dtype"] == "fp16"


def test_sliding_configs():
    assert "window" not in describe_config(architectures=["MistralForCausalLM"], sliding_window=None)
    assert describe_config(architectures=["MistralForCausalLM"], sliding_window=4096)["window"] == {
        "tokens": 4096, "layer_ids": [0, 1, 2, 3]}
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 4096, "max_window_layers": 3}
    assert "window" not in describe_config(**qwen, use_sliding_window=False)
    assert describe_config(**qwen, use_sliding_window=True)["window"]["layer_ids"] == [3]
    gemma = {"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 8, "sliding_window": 512}
    assert describe_config(**gemma)["window"]["layer_ids"] == [0, 1, 2, 3, 4, 6, 7]
    assert describe_config(**gemma, sliding_window_pattern=4)["window"]["layer_ids"] == [0, 1, 2, 4, 5, 6]
    assert describe_config(architectures=["Gemma2ForCausalLM"], sliding_window=4096)["window"]["layer_ids"] == [0, 2]


def test_gpt_oss_config_equals_the_built_in():
    types = ["sliding_attention", "full_attention"] * 18
    model = describe_config(architectures=["GptOssForCausalLM"], num_hidden_layers=36, num_key_value_heads=8, head_dim=64,
                            sliding_window=128, layer_types=types)
    built_in = describe("gpt-oss-120b")
    for key in ("layers", "kv_heads", "head_dim", "bytes_per_token", "window"):
        assert model[key] == built_in[key], key


def test_deepseek_config_equals_the_built_in():
    model = describe_config(architectures=["DeepseekV3ForCausalLM"], num_hidden_layers=61, kv_lora_rank=512, qk_rope_head_dim=64,
                            num_attention_heads=128, num_key_value_heads=128)
    assert (model["parts"], model["head_dim"], model["bytes_per_token"]) == (1, 576, 70272)


def test_nemotron_h_config_equals_the_built_in():
    model = describe_config(architectures=["NemotronHForCausalLM"], num_hidden_layers=52, num_key_value_heads=8, attention_head_dim=128,
                            hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
                            mamba_num_heads=128, mamba_head_dim=64, ssm_state_size=128, n_groups=8, conv_kernel=4)
    built_in = describe("nemotron-h-8b")
    for key in ("layers", "kv_heads", "head_dim", "bytes_per_token", "state"):
        assert model[key] == built_in[key], key


def test_text_config_of_a_vision_model():
    inner = config(architectures=..., torch_dtype=..., sliding_window=1024, num_hidden_layers=6)
    model = describe_config(json.dumps({"architectures": ["Gemma3ForConditionalGeneration"], "torch_dtype": "bfloat16",
                                        "text_config": inner}))
    assert model["layers"] == 6 and model["window"]["layer_ids"] == [0, 1, 2, 3, 4]


def test_config_mistakes_name_the_field():
    refuse_config("field 'num_hidden_layers' is missing", num_hidden_layers=...)
    refuse_config("field 'num_hidden_layers' is -3; allowed: a whole number from 1 to 1024", num_hidden_layers=-3)
    refuse_config("field 'num_hidden_layers' is 4.5", num_hidden_layers=4.5)
    refuse_config("field 'num_key_value_heads' is missing", architectures=["Qwen3ForCausalLM"], num_key_value_heads=...)
    refuse_config("field 'torch_dtype' is missing", torch_dtype=...)
    refuse_config("field 'torch_dtype': 'float64'", torch_dtype="float64")
    refuse_config("field 'architectures' is missing", architectures=...)
    refuse_config("'FalconForCausalLM' is not known", architectures=["FalconForCausalLM"])
    refuse_config("field 'head_dim' is missing, and hidden_size 500 is no multiple of num_attention_heads 8", hidden_size=500)
    refuse_config("field 'layer_types' is missing", architectures=["GptOssForCausalLM"])
    refuse_config("'odd_attention' is neither", layer_types=["odd_attention"] * 4)
    refuse_config("field 'layer_types' is no array of 4 words", layer_types=["full_attention"] * 3)
    refuse_config("field 'sliding_window' is missing", architectures=["Gemma2ForCausalLM"])
    refuse_config("field 'max_window_layers' is missing", architectures=["Qwen2ForCausalLM"], use_sliding_window=True)
    refuse_config("field 'kv_lora_rank' is missing", architectures=["DeepseekV2ForCausalLM"])
    refuse_config("field 'hybrid_override_pattern': 'x' at position 1", architectures=["NemotronHForCausalLM"], hybrid_override_pattern="Mx")
    refuse_config("field 'mamba_num_heads' is missing", architectures=["NemotronHForCausalLM"], hybrid_override_pattern="M*")


def test_broken_files_have_a_place():
    refuse_config("line 2, column 16: ", text='{"a": 1,\n "torch_dtype" "x"}')
    refuse_config("the text ends too early", text='{"a": 1,')
    refuse_config("holds an array, not an object", text="[]")
    refuse_config("longer than 1048576 bytes", text=" " * 1048577)
    refused(USAGE, "models", "--model", "/nonexistent/config.json", says="/nonexistent/config.json: cannot open it")


if __name__ == "__main__":
    main(globals())
