"""replay_tools.py - runs kvferry replay for the tests beside it and checks what must hold for every good run."""
import json
import os
import re

from harness import SOURCE, Skip, good, run, temporary_file

DATA = os.path.join(SOURCE, "..", "shared", "data")
# What the topologies of the mapping are tried with: 4 layers, 4 heads, head_dim 128, fp32.
SMALL = "layers=4,heads=4,head_dim=128,dtype=fp32"
SMALL_MLA = "layers=4,heads=1,head_dim=128,dtype=fp32,mla"


def has_zmq():
    return "zmq" in good("--version").out


def transports():
    """Those that this build can replay over. KVFERRY_TRANSPORTS, a comma list, says to try these alone."""
    chosen = os.environ.get("KVFERRY_TRANSPORTS")
    if chosen:
        return chosen.split(",")
    return ["loop", "shm", "tcp"] if has_zmq() else ["loop"]


def fast():
    """The transport to try most things with."""
    return "shm" if "shm" in transports() else "loop"


def data_file(name):
    path = os.path.join(DATA, name)
    if not os.path.exists(path):
        raise Skip(f"{name} is not there")
    return path


def trace_of(lengths, step_ms=0):
    """A trace file; prompts of whole 512-token blocks share nothing."""
    lines, next_hash = [], 0
    for i, tokens in enumerate(lengths):
        n = -(-tokens // 512)
        lines.append(json.dumps({"timestamp": i * step_ms, "input_length": tokens, "output_length": 1,
                                 "hash_ids": list(range(next_hash, next_hash + n))}))
        next_hash += n
    return temporary_file("".join(line + "\n" for line in lines), suffix=".jsonl")


def check(numbers, transport=None, verify="full"):
    """The contract of the JSON, and that all went well."""
    for key in ("requests", "completed", "failed", "bytes_expected", "bytes_moved", "bytes_verified", "mismatches", "runs",
                "seconds", "gb_per_s"):
        assert isinstance(numbers[key], (int, float)), f"{key}: {numbers}"
    assert list(numbers["latency_ms"]) == ["p50", "p90", "p99", "max"], numbers
    assert list(numbers["stages_ms"]) == ["queue", "plan", "transfer"], numbers
    assert numbers["completed"] == numbers["requests"] and numbers["failed"] == 0, numbers
    assert numbers["mismatches"] == 0 and "first_mismatch" not in numbers, numbers
    assert numbers["bytes_moved"] == numbers["bytes_expected"], numbers
    if verify == "full":
        assert numbers["bytes_verified"] >= numbers["bytes_moved"], numbers
    latency = numbers["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"], numbers
    assert numbers["seconds"] > 0 and numbers["transport"], numbers
    if transport:
        assert set(numbers["transport"].values()) == {transport}, numbers["transport"]
    assert all(re.fullmatch(r"\d+:\d+", pair) for pair in numbers["transport"]), numbers


def replay(transport, model, prefill, decode, *more, verify="full"):
    arguments = ["replay", "--transport", transport, "--model", model, "--prefill", prefill, "--decode", decode,
                 "--verify", verify, "--json", *more]
    result = run(*arguments, timeout=600)
    assert result.code == 0, f"{' '.join(arguments)}: exit {result.code}: {result.err}{result.out[:600]}"
    assert result.err == "", f"{' '.join(arguments)}: {result.err}"
    numbers = result.json()
    try:
        check(numbers, transport, verify)
    except AssertionError as wrong:
        raise AssertionError(f"{' '.join(arguments)}: {wrong}") from wrong
    return numbers
