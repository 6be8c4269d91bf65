"""kvferry plan: the worked examples of the design, the JSON contract, refusals."""
from random import Random

from harness import FAILED, USAGE, good, main, plan, refused, run

# 8 kv heads, 32 tokens per block, head_dim 128, bf16, 2 layers: one head of one part of one block is 8192 bytes.
SMALL = "layers=2,heads=8,head_dim=128,dtype=bf16"
FIVE = "layers=5,heads=8,head_dim=128,dtype=bf16"
TWO_HEADS = "layers=2,heads=2,head_dim=128,dtype=bf16"
MLA = "layers=4,head_dim=576,dtype=bf16,mla"


def pairs_of(document):
    return {(pair["src"], pair["dst"]): pair for pair in document["pairs"]}


def senders(document):
    return sorted(key for key, pair in pairs_of(document).items() if pair["kv"])


def aux_of(document):
    return sorted(key for key, pair in pairs_of(document).items() if pair["aux"])


def block0(model, prefill, decode, src, dst, *more):
    document = plan(model, 32, 32, prefill, decode, "--pair", f"{src}:{dst}", "--runs", *more)
    runs = pairs_of(document)[(src, dst)]["block0_runs"]
    assert runs == document["block0_runs"]
    return [tuple(run_) for run_ in runs]


def test_contract_keys():
    document = plan(SMALL, 100, 32, "tp=4", "tp=2")
    assert list(document) == ["model", "tokens", "bytes_per_token", "total_bytes", "pairs", "expected_results", "refused"]
    assert document["model"] == SMALL and document["tokens"] == 100 and document["refused"] is None
    assert document["bytes_per_token"] == 2 * 2 * 8 * 256
    for pair in document["pairs"]:
        assert list(pair) == ["src", "dst", "kv", "aux", "bytes", "runs", "run_bytes_min", "run_bytes_max", "nests"]
        for nest in pair["nests"]:
            assert list(nest) == ["group", "layers", "heads", "run_bytes", "src_offset", "dst_offset", "loops"]
            for loop in nest["loops"]:
                assert list(loop) == ["count", "src_stride", "dst_stride"]
    assert document["pairs"] == sorted(document["pairs"], key=lambda pair: (pair["src"], pair["dst"]))


def test_bytes_count_whole_blocks():
    for tokens, blocks in ((1, 1), (31, 1), (32, 1), (33, 2), (100, 4)):
        document = plan(SMALL, tokens, 32, "tp=4", "tp=2")
        assert document["total_bytes"] == blocks * 2 * 131072 == sum(pair["bytes"] for pair in document["pairs"])
        for pair in document["pairs"]:
            assert pair["runs"] * 16384 == pair["bytes"]
            assert pair["run_bytes_min"] == pair["run_bytes_max"] == 16384


def test_nests_add_up():
    for prefill, decode in (("tp=4", "tp=2"), ("tp=2,layout=nhd", "tp=4"), ("tp=3", "tp=2,layout=hnd"), ("pp=2", "tp=2,block=16")):
        document = plan(SMALL, 32, 32, prefill, decode)
        for pair in document["pairs"]:
            total = 0
            for nest in pair["nests"]:
                count = 1
                for loop in nest["loops"]:
                    count *= loop["count"]
                total += count * nest["run_bytes"]
            blocks = 2 if "block=16" in decode else 1
            assert total * blocks == pair["bytes"], (prefill, decode, pair)


def expand(nest):
    """The (source, destination, length) of each run of a nest inside one block."""
    runs = [(nest["src_offset"], nest["dst_offset"], nest["run_bytes"])]
    for loop in nest["loops"]:
        runs = [(src + i * loop["src_stride"], dst + i * loop["dst_stride"], length)
                for src, dst, length in runs for i in range(loop["count"])]
    return runs


def test_nests_tile_every_destination_block():
    """Whatever the topology: over all sources each byte of each destination's slot is written exactly once."""
    random = Random(11)
    for _ in range(60):
        layers, heads = random.randint(1, 7), random.choice([1, 2, 3, 6, 8])
        model = f"layers={layers},heads={heads},head_dim={random.choice([1, 3, 64])},dtype={random.choice(['fp32', 'bf16', 'int8'])}"
        sides = []
        for _ in range(2):
            tp, pp = random.choice([1, 2, 3, 4, 8]), random.randint(1, min(layers, 3))
            layout = random.choice(["block-major", "hnd", "nhd"])
            sides.append(f"tp={tp},pp={pp},layout={layout}" + random.choice(["", ",attention-dp"]) + random.choice(["", ",order=tp:pp:cp"]))
        sides[1] = sides[1].replace("hnd", "block-major").replace("nhd", "block-major")
        document = plan(model, 8, 8, *sides, "--replica", random.choice(["elect", "stripe"]))
        for rank in range(len(document["expected_results"])):
            written = sorted((dst, length) for pair in document["pairs"] if pair["dst"] == rank for nest in pair["nests"]
                             for _, dst, length in expand(nest))
            end = 0
            for start, length in written:
                assert start == end, (model, sides, rank, start, end)
                end = start + length
            assert end == sum(pair["bytes"] for pair in document["pairs"] if pair["dst"] == rank), (model, sides, rank)
            assert end > 0


def test_block0_runs_are_the_nests():
    sides = ("tp=4,pp=2", "tp=3")
    document = plan("layers=4,heads=6,head_dim=64,dtype=bf16", 8, 8, *sides, "--pair", "5:1", "--runs")
    pair = pairs_of(document)[(5, 1)]
    runs = [run_ for nest in pair["nests"] for run_ in expand(nest)]
    assert [tuple(run_[1:]) for run_ in pair["block0_runs"]] == runs


def test_tp4_to_tp2():
    document = plan(SMALL, 32, 32, "tp=4", "tp=2")
    assert senders(document) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert aux_of(document) == [(0, 0), (2, 1)]
    assert document["expected_results"] == [2, 2]
    even = [(0, 0, 0, 16384), (0, 16384, 32768, 16384), (1, 32768, 65536, 16384), (1, 49152, 98304, 16384)]
    odd = [(0, 0, 16384, 16384), (0, 16384, 49152, 16384), (1, 32768, 81920, 16384), (1, 49152, 114688, 16384)]
    assert block0(SMALL, "tp=4", "tp=2", 0, 0) == even
    assert block0(SMALL, "tp=4", "tp=2", 1, 0) == odd
    assert block0(SMALL, "tp=4", "tp=2", 2, 1) == even
    assert block0(SMALL, "tp=4", "tp=2", 3, 1) == odd
    heads = {key: pair["nests"][0]["heads"] for key, pair in pairs_of(document).items()}
    assert heads == {(0, 0): [0, 2], (1, 0): [2, 4], (2, 1): [4, 6], (3, 1): [6, 8]}


def test_tp2_to_tp4():
    document = plan(SMALL, 32, 32, "tp=2", "tp=4")
    assert senders(document) == [(0, 0), (0, 1), (1, 2), (1, 3)] == aux_of(document)
    assert document["expected_results"] == [1, 1, 1, 1]
    assert [(a, b) for _, a, b, _ in block0(SMALL, "tp=2", "tp=4", 0, 0)] == [(0, 0), (32768, 16384), (65536, 32768), (98304, 49152)]
    assert [(a, b) for _, a, b, _ in block0(SMALL, "tp=2", "tp=4", 0, 1)] == [(16384, 0), (49152, 16384), (81920, 32768), (114688, 49152)]


def test_uneven_stages():
    sides = ("pp=2,stages=3:2", "pp=2,stages=2:3")
    document = plan(FIVE, 32, 32, *sides)
    assert sorted(pairs_of(document)) == [(0, 0), (0, 1), (1, 1)]
    assert document["expected_results"] == [1, 2]
    assert aux_of(document) == [(0, 0), (0, 1)]
    layers = {key: [layer for nest in pair["nests"] for layer in nest["layers"]] for key, pair in pairs_of(document).items()}
    assert layers == {(0, 0): [0, 1], (0, 1): [2], (1, 1): [3, 4]}
    assert block0(FIVE, *sides, 0, 0) == [(0, 0, 0, 262144)]
    assert block0(FIVE, *sides, 0, 1) == [(2, 262144, 0, 131072)]
    assert block0(FIVE, *sides, 1, 1) == [(3, 0, 131072, 262144)]


def test_replicated_heads():
    document = plan(TWO_HEADS, 32, 32, "tp=4", "tp=2")
    assert senders(document) == [(0, 0), (2, 1)]
    assert sorted(pairs_of(document)) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    idle = pairs_of(document)[(1, 0)]
    assert idle["bytes"] == 0 and idle["runs"] == 0 and idle["nests"] == [] and not idle["aux"]
    assert document["expected_results"] == [2, 2]
    document = plan(TWO_HEADS, 32, 32, "tp=4", "tp=1")
    assert senders(document) == [(0, 0), (2, 0)]
    assert pairs_of(document)[(2, 0)]["nests"][0]["heads"] == [1, 2]
    assert document["expected_results"] == [4]


def test_mla_to_attention_dp():
    document = plan(MLA, 32, 32, "tp=2", "tp=2,attention-dp")
    assert senders(document) == [(0, 0), (1, 1)]
    assert document["expected_results"] == [2, 2]
    assert pairs_of(document)[(0, 0)]["bytes"] == 32 * 4 * 1152


def test_mla_from_attention_dp():
    document = plan(MLA, 32, 32, "tp=2,attention-dp", "tp=2", "--request-dp", "0")
    assert senders(document) == [(0, 0), (0, 1)] == sorted(pairs_of(document))
    document = plan(MLA, 32, 32, "tp=2,attention-dp", "tp=2", "--request-dp", "1")
    assert senders(document) == [(1, 0), (1, 1)]
    assert document == plan(MLA, 32, 32, "tp=2,dp=2,attention-dp", "tp=2", "--request-dp", "1")


def test_request_dp_names_both_sides():
    document = plan(SMALL, 32, 32, "tp=4,attention-dp", "tp=4,dp=2,attention-dp", "--request-dp", "3:1")
    assert sorted(pairs_of(document)) == [(3, 2), (3, 3)]
    assert document["expected_results"] == [0, 0, 1, 1]
    refused(USAGE, "plan", "--model", SMALL, "--tokens", "1", "--prefill", "tp=2,attention-dp", "--request-dp", "2",
            says="--request-dp: prefill side: '2' is out of range; allowed: 0 to 1")
    refused(USAGE, "plan", "--model", SMALL, "--tokens", "1", "--request-dp", "0:1", says="--request-dp: decode side: '1'")
    refused(USAGE, "plan", "--model", SMALL, "--tokens", "1", "--request-dp", "x", says="'x' is not a whole number")


def test_stripe_shares_the_layers():
    document = plan(MLA, 32, 32, "tp=2", "tp=1", "--replica", "stripe")
    layers = {key: [layer for nest in pair["nests"] for layer in nest["layers"]] for key, pair in pairs_of(document).items()}
    assert layers == {(0, 0): [0, 1], (1, 0): [2, 3]}
    assert document["total_bytes"] == plan(MLA, 32, 32, "tp=2", "tp=1")["total_bytes"]


def test_topologies_move_every_byte():
    model = "layers=4,heads=4,head_dim=128,dtype=fp32"
    mla = "layers=4,head_dim=128,dtype=fp32,mla"
    for kind, prefill, decode, copies in (
            (model, "tp=1,pp=1", "tp=1,pp=1", 1), (model, "tp=1,pp=1", "tp=1,pp=2", 1), (model, "tp=1,pp=2", "tp=1,pp=1", 1),
            (model, "tp=1,pp=2", "tp=1,pp=2", 1), (model, "tp=1,pp=2", "tp=2,pp=1", 1), (model, "tp=2,pp=1", "tp=1,pp=2", 1),
            (model, "tp=4,pp=1", "tp=2,pp=2", 1), (model, "tp=1,pp=4", "tp=2,pp=2", 1),
            (model, "tp=2,attention-dp", "tp=2,attention-dp", 2), (model, "tp=2,attention-dp", "tp=1,pp=2", 1),
            (model, "tp=1,pp=4", "tp=2,pp=2,attention-dp", 2), (mla, "tp=2", "tp=2,attention-dp", 2), (mla, "tp=2,attention-dp", "tp=2", 2)):
        for layouts in ("block-major", "hnd", "nhd"):
            for tokens in (16, 32):
                document = plan(kind, tokens, 8, prefill, f"{decode},layout={layouts}")
                assert document["total_bytes"] == tokens * document["bytes_per_token"] * copies, (kind, prefill, decode, layouts)


def test_offsets_of_per_layer_layouts_are_from_the_part():
    runs = block0(SMALL, "tp=4,layout=hnd", "tp=2,layout=hnd", 1, 0)
    assert runs == [(layer, 0, 16384, 16384) for layer in (0, 0, 1, 1)]
    runs = block0(SMALL, "tp=2,layout=nhd", "tp=4,layout=nhd", 0, 1)
    assert len(runs) == 4 * 32 and runs[0] == (0, 512, 0, 512) and runs[1] == (0, 512 + 1024, 512, 512)


def test_windows_and_state_are_groups():
    document = plan("gpt-oss-120b", 4096, 32, "tp=2", "tp=1")
    groups = {nest["group"] for nest in document["pairs"][0]["nests"]}
    assert groups == {0, 1}
    document = plan("nemotron-h-8b", 32, 32, "tp=2", "tp=1")
    assert document["total_bytes"] == 32 * 16384 + 24 * (61440 + 4194304)


def test_context_parallel_decode():
    document = plan(SMALL, 128, 32, "tp=1", "tp=1,cp=2")
    assert sorted(pairs_of(document)) == [(0, 0), (0, 1)]
    assert document["total_bytes"] == 4 * 2 * 131072
    assert [pair["bytes"] for pair in document["pairs"]] == [2 * 2 * 131072] * 2


def test_refused_plans_print_json_and_fail():
    arguments = ["plan", "--model", SMALL, "--tokens", "64", "--prefill", "block=16", "--decode", "cp=2,block=32"]
    result = run(*arguments, "--json")
    assert result.code == FAILED
    document = result.json()
    assert list(document) == ["model", "tokens", "bytes_per_token", "total_bytes", "pairs", "expected_results", "refused"]
    assert list(document["refused"]) == ["field", "prefill", "decode"]
    assert "tokens_per_block" in document["refused"]["field"]
    assert (document["refused"]["prefill"], document["refused"]["decode"]) == ("16", "32")
    assert document["pairs"] == [] and document["total_bytes"] == 0
    result = run(*arguments, "--explain")
    assert result.code == FAILED and "tokens_per_block" in result.err
    assert "must be equal under cp" in result.out and "Refused: " in result.out
    assert isinstance(run(*arguments, "--explain", "--json").json()["explain"], list)


def test_different_block_sizes_are_legal_without_cp():
    document = plan(SMALL, 64, 32, "tp=2,block=16", "tp=2,block=48")
    assert document["refused"] is None and document["total_bytes"] == 64 * document["bytes_per_token"]


def test_rank_specs_are_refused_by_key():
    for prefill, says in (("cp=2", "--prefill: cp: cp=2 on the prefill side"), ("tp=4,dp=2", "--prefill: dp: dp=2 needs attention-dp"),
                          ("tp=4,dp=3,attention-dp", "does not divide tp=4"), ("pp=3", "pp=3 is more than the model's 2 layers"),
                          ("pp=2,stages=2:1", "stages: they sum to 3, but the model has 2 layers"), ("tp=0", "tp: '0'"),
                          ("tp=9999", "tp: '9999' is out of range; allowed: 1 to 4096"), ("xp=2", "unknown key 'xp'"),
                          ("layout=bhd", "layout: 'bhd' is none of"), ("order=tp", "order: 'tp'")):
        refused(USAGE, "plan", "--model", SMALL, "--tokens", "1", "--prefill", prefill, says=says)
    refused(USAGE, "plan", "--model", SMALL, "--tokens", "1", "--decode", "tp=4,dp=2", says="--decode: dp: ")


def test_absurd_sizes_are_refused_at_once():
    arguments = ["plan", "--model", "llama-3.1-8b", "--tokens", "1", "--prefill", "tp=1024,pp=4"]
    refused(USAGE, *arguments, "--decode", "tp=2048,attention-dp,pp=2",
            says="4096 sources and 4096 destinations are too many to list, at most 262144 pairs; name the DP index")
    document = plan("llama-3.1-8b", 1, 32, "tp=128,pp=2", "tp=512,attention-dp", "--request-dp", "0:5")
    assert document["total_bytes"] == 32 * document["bytes_per_token"]
    assert document["expected_results"][5] == 256 and sum(document["expected_results"]) == 256


def test_pairs_and_runs_are_checked():
    arguments = ["plan", "--model", SMALL, "--tokens", "1", "--prefill", "tp=4", "--decode", "tp=2"]
    refused(USAGE, *arguments, "--runs", says="--runs: needs --pair")
    refused(USAGE, *arguments, "--pair", "1", says="--pair: '1' is not SRC:DST")
    refused(USAGE, *arguments, "--pair", "4:0", says="--pair: prefill side: '4' is out of range; allowed: 0 to 3")
    refused(FAILED, *arguments, "--pair", "0:1", "--runs", "--json", says="rank 0 and decode rank 1 are not paired")


def test_people_get_a_table_a_picture_and_reasons():
    out = good("plan", "--model", TWO_HEADS, "--tokens", "8192", "--prefill", "tp=4", "--decode", "tp=2", "--explain").out
    for words in ("P0", "D1", "answers that it owes nothing", "head 1 of layers 0-1", "results", "## sends KV",
                  "P1 -> D0: owes nothing, but answers: P0 sends what it holds too (D0 has DP index 0, 2 holders)",
                  "P0 -> D0: sends head 0 of layers 0-1: elected among 2 holders", "P0 -> D1: not paired",
                  "D0: aux from P0", "8,192 tokens"):
        assert words in out, (words, out)
    out = good("plan", "--model", SMALL, "--tokens", "32", "--prefill", "tp=4", "--decode", "tp=2", "--pair", "1:0", "--runs").out
    assert "114688" in out and "nest 0 of group 0: runs of 16384 bytes" in out


def test_rank_order():
    document = plan(SMALL, 32, 32, "tp=2,pp=2,order=tp:cp:pp", "tp=2")
    # rank = tp*2 + pp: rank 1 is tp 0 of the second stage
    layers = {key: pair["nests"][0]["layers"] for key, pair in pairs_of(document).items()}
    assert layers == {(0, 0): [0], (1, 0): [1], (2, 1): [0], (3, 1): [1]}


if __name__ == "__main__":
    main(globals())
