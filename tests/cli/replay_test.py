"""kvferry replay: prompt lengths, models, reuse, options, what it refuses, and that it finds what is wrong."""
import json
import os

from harness import FAILED, USAGE, main, refused, run, run_on_terminal, temporary_file
from replay_tools import SMALL, check, data_file, fast, has_zmq, replay, trace_of, transports

TINY = "layers=2,heads=2,head_dim=16,dtype=fp16"


def with_trace(lengths, function, **options):
    trace = trace_of(lengths, **options)
    try:
        return function(trace)
    finally:
        os.unlink(trace)


def test_prompts_of_one_token_to_a_hundred_thousand():
    def play(trace):
        for transport in transports():
            replay(transport, TINY, "tp=2", "tp=1,layout=nhd", "--block-tokens", "16", "--pool", "32MiB", "--sum", trace)
    with_trace([1, 15, 16, 17, 100000, 1, 15, 16, 17], play)


def test_state_model():
    replay(fast(), "nemotron-h-8b", "tp=4", "tp=2", "--requests", "50", "--pool", "160MiB", "--max-tokens", "1024",
           "--concurrency", "4")


def test_window_model():
    replay(fast(), "gpt-oss-120b", "tp=4", "tp=2,layout=hnd", "--requests", "50", "--pool", "64MiB", "--max-tokens", "1024",
           "--concurrency", "4")


def test_start_of_the_real_trace():
    trace = data_file("conversation_trace.jsonl")
    replay(fast(), "llama-3.2-1b", "tp=4", "tp=2", "--requests", "6", "--pool", "160MiB", "--concurrency", "4", trace)


def test_prefixes_are_reused_and_sent_once():
    lines = [json.dumps({"timestamp": 0, "input_length": 2000, "output_length": 1, "hash_ids": [0, 1, 2, 10 + i]})
             for i in range(6)]
    trace = temporary_file("\n".join(lines) + "\n")
    try:
        one = replay("loop", TINY, "tp=2", "tp=1,cp=2", "--pool", "4MiB", "--concurrency", "1", trace)
        few = replay("loop", TINY, "tp=2", "tp=1,cp=2", "--pool", "4MiB", "--concurrency", "1", "--requests", "1", trace)
    finally:
        os.unlink(trace)
    assert one["tokens_reused"] == 5 * 1536, one
    assert one["bytes_verified"] == 6 * few["bytes_moved"], (one, few)
    assert one["bytes_moved"] < 3 * few["bytes_moved"], (one, few)


def test_requests_wait_for_blocks():
    # Two of these fit the pool, sixteen may run: most of them wait.
    with_trace([900] * 20, lambda trace: replay("loop", TINY, "tp=2", "tp=1", "--pool", "512KiB", "--concurrency", "16", trace))


def test_sum_and_sample_and_none():
    for verify in ("sample", "none"):
        numbers = replay(fast(), SMALL, "tp=2", "tp=1", "--requests", "20", "--pool", "4MiB", "--sum", verify=verify)
        assert numbers["bytes_verified"] < numbers["bytes_moved"], numbers


def test_the_same_seed_gives_the_same_run():
    arguments = ["loop", TINY, "tp=2", "tp=1", "--requests", "20", "--pool", "1MiB", "--concurrency", "1"]
    first, second = (replay(*arguments, "--seed", "5") for _ in range(2))
    other = replay(*arguments, "--seed", "6")
    for key in ("bytes_moved", "runs", "tokens", "tokens_reused"):
        assert first[key] == second[key], key
    assert first["bytes_moved"] != other["bytes_moved"]


def test_rate_follows_the_timestamps():
    numbers = with_trace([16] * 3, lambda trace: replay("loop", TINY, "tp=1", "tp=1", "--rate", "10x", trace), step_ms=1000)
    assert numbers["wall_seconds"] >= 0.2, numbers


def test_auto_says_what_it_chose():
    result = run("replay", "--model", TINY, "--requests", "3", "--pool", "1MiB", "--json")
    assert result.code == 0, result.err
    check(result.json(), fast())


def test_a_damaged_byte_is_found_and_named():
    result = run("replay", "--transport", "loop", "--model", TINY, "--prefill", "tp=2", "--requests", "4", "--pool", "1MiB",
                 "--corrupt", "3", "--json")
    assert result.code == FAILED, result.err
    numbers = result.json()
    wrong = numbers["first_mismatch"]
    assert numbers["mismatches"] == 1 and wrong["request"] == 2 and wrong["kind"] == "content", numbers
    assert numbers["completed"] == 4 and numbers["bytes_moved"] == numbers["bytes_expected"], numbers
    for words in ("request 2", "decode rank 0", "layer 0", "head 0", f"token {wrong['token']}"):
        assert words in result.err, result.err


def test_a_person_gets_a_table():
    result = run("replay", "--transport", "loop", "--model", TINY, "--requests", "3", "--pool", "1MiB")
    assert result.code == 0, result.err
    for words in ("3 of 3 requests", "0 wrong", "latency", "transfer"):
        assert words in result.out, result.out
    assert "\033" not in result.out
    terminal = run_on_terminal("replay", "--transport", "loop", "--model", TINY, "--requests", "3", "--pool", "1MiB")
    assert terminal.code == 0 and "\033" in terminal.out, terminal.out


# ------------------------------------------------------------------------------------------------------------ refusals

def test_options_that_make_no_sense():
    base = ["replay", "--model", TINY]
    refused(USAGE, "replay", says="--model")
    refused(USAGE, "replay", "--model", "layers=2,heads=2,head_dim=16,dtype=fp16,color=red", says=["--model", "color"])
    refused(USAGE, *base, "--prefill", "tp=0", says=["--prefill", "tp"])
    refused(USAGE, *base, "--prefill", "cp=2", says=["--prefill", "cp"])
    refused(USAGE, *base, "--decode", "tp=4,dp=3,attention-dp", says=["--decode", "dp"])
    refused(USAGE, *base, "--decode", "pp=3", says="--decode")
    refused(USAGE, *base, "--transport", "pigeon", says="--transport")
    refused(USAGE, *base, "--rate", "fast", says="--rate")
    refused(USAGE, *base, "--rate", "-1x", says="--rate")
    refused(USAGE, *base, "--concurrency", "0", says="--concurrency")
    refused(USAGE, *base, "--pool", "1", says="--pool")
    refused(USAGE, *base, "--block-runs", "0", says="--block-runs")
    refused(USAGE, *base, "--verify", "maybe", says="--verify")
    refused(USAGE, *base, "--prefill", "tp=400", "--decode", "tp=400", says="800 ranks")
    refused(USAGE, *base, "trace.jsonl", "--max-tokens", "5", says="--max-tokens")


def test_sides_that_do_not_fit():
    refused(FAILED, "replay", "--model", SMALL, "--prefill", "block=16", "--decode", "tp=2,cp=2,block=32", "--pool", "1MiB",
            "--transport", "loop", says=["tokens_per_block", "16", "32"])


def test_transports_that_are_not_built_in():
    if has_zmq():
        return
    for transport in ("shm", "tcp"):
        refused(USAGE, "replay", "--model", TINY, "--transport", transport, says=[f"--transport {transport}", "ZeroMQ"])


def test_a_request_that_can_never_fit():
    def play(trace):
        result = refused(FAILED, "replay", trace, "--model", TINY, "--pool", "256KiB", says=["request 1", "5000 tokens", "--pool"])
        return result.err.split("(--pool ")[1].split(")")[0]

    def play_enough(trace):
        pool = play(trace)
        replay("loop", TINY, "tp=1", "tp=1", "--pool", pool, trace)
        refused(FAILED, "replay", trace, "--model", TINY, "--pool", str(int(pool) - 1), says="can never fit")
    with_trace([10, 5000, 20], play_enough)


def test_damaged_traces_are_named_with_their_line():
    line = '{"timestamp": 0, "input_length": 10, "output_length": 1, "hash_ids": [1]}\n'
    cases = [(line * 2 + line[:30], "line 3"), (line + line.replace("10", "-10"), "line 2"), (line + "\n" + line, "line 2"),
             (line + line.replace("[1]", "[1, 2]"), "line 2"), (line + '{"timestamp": 0}\n', "line 2")]
    for text, where in cases:
        path = temporary_file(text)
        try:
            refused(FAILED, "replay", path, "--model", TINY, "--transport", "loop", says=[path, where])
        finally:
            os.unlink(path)
    refused(FAILED, "replay", "/does/not/exist", "--model", TINY, "--transport", "loop", says="/does/not/exist")
    empty = temporary_file("")
    try:
        refused(FAILED, "replay", empty, "--model", TINY, "--transport", "loop", says="no requests")
    finally:
        os.unlink(empty)


if __name__ == "__main__":
    main(globals())
