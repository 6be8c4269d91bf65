"""Every topology of the mapping moves every byte, over every transport, in both orders, with and without aux data.

Requests with an odd index are received first, the others sent first; three of four carry aux data; by seed they are sent whole, in
token chunks, layer by layer, by ticket, and to a group that the receiver does not know. Twelve requests of a run meet all of it.
"""
import os

from harness import main, plan
from replay_tools import SMALL, SMALL_MLA, replay, trace_of, transports

LENGTHS = [16, 16, 32] * 4
# (prefill, decode): mapping.md, "Topologies that must move every byte"
TOPOLOGIES = [
    ("tp=1,pp=1", "tp=1,pp=1"), ("tp=1,pp=1", "tp=1,pp=2"), ("tp=1,pp=2", "tp=1,pp=1"), ("tp=1,pp=2", "tp=1,pp=2"),
    ("tp=1,pp=2", "tp=2,pp=1"), ("tp=2,pp=1", "tp=1,pp=2"), ("tp=4,pp=1", "tp=2,pp=2"), ("tp=1,pp=4", "tp=2,pp=2"),
    ("tp=2,pp=1,attention-dp", "tp=2,pp=1,attention-dp"), ("tp=2,pp=1,attention-dp", "tp=1,pp=2"),
    ("tp=1,pp=4", "tp=2,pp=2,attention-dp"),
]
MLA_TOPOLOGIES = [("tp=2,pp=1", "tp=2,pp=1,attention-dp"), ("tp=2,pp=1,attention-dp", "tp=2,pp=1")]
# What the list leaves out: sizes that do not divide, replicas, context parallelism, uneven stages, block sizes, rank orders.
MORE = [
    (SMALL, "tp=3", "tp=2"), (SMALL, "tp=8", "tp=2"), (SMALL, "tp=2", "tp=8"), (SMALL, "tp=8,pp=2", "tp=3"),
    (SMALL, "tp=2", "tp=2,cp=2"), (SMALL, "tp=1,pp=2", "tp=1,cp=3"), (SMALL, "tp=4", "tp=2,cp=2,pp=2"),
    (SMALL, "tp=1,pp=2,stages=3:1", "tp=2,pp=2,stages=1:3"), (SMALL, "tp=2,block=16", "tp=1,block=24"),
    (SMALL, "tp=1,block=24,layout=nhd", "tp=2,block=16,layout=hnd"), (SMALL, "tp=2,pp=2,order=tp:cp:pp", "tp=2,pp=2"),
    (SMALL, "tp=4,dp=2,attention-dp", "tp=4,dp=2,attention-dp"), (SMALL, "tp=4,dp=2,attention-dp", "tp=4,attention-dp"),
    (SMALL_MLA, "tp=4", "tp=2,cp=2"), (SMALL_MLA, "tp=4,attention-dp", "tp=4,dp=2,attention-dp"),
    (SMALL + ",window=16:every=2", "tp=2", "tp=1,pp=2"), (SMALL + ",window=24:every=2", "tp=2,block=16", "tp=4,block=8"),
    (SMALL + ",window=16:every=3", "tp=1", "tp=2,cp=2"), (SMALL + ",state=3:352:8x12+4x64", "tp=2", "tp=4"),
    (SMALL + ",state=2:352:8x12+4x64", "tp=4,pp=2", "tp=2,attention-dp"),
]
LAYOUTS = ["block-major", "hnd", "nhd"]
COMMON = ["--block-tokens", "8", "--pool", "1MiB", "--concurrency", "4", "--block-runs", "2"]


def pairs_of(model, prefill, decode):
    """Who is paired with whom, as kvferry plan says, whatever the data-parallel group of a request."""
    keys = dict(part.partition("=")[::2] for part in prefill.split(","))
    groups = int(keys.get("dp", keys.get("tp", 1))) if "attention-dp" in keys else 1
    plans = [plan(model, 32, 8, prefill, decode, "--request-dp", str(dp)) for dp in range(groups)]
    return {f"{pair['src']}:{pair['dst']}" for one in plans for pair in one["pairs"]}


def run_all(cases, seed, *more):
    trace = trace_of(LENGTHS)
    try:
        for i, (model, prefill, decode) in enumerate(cases):
            pairs = pairs_of(model, prefill, decode)
            for transport in transports():
                numbers = replay(transport, model, prefill, decode, *COMMON, "--seed", str(seed + i), *more, trace)
                assert set(numbers["transport"]) == pairs, (prefill, decode, numbers["transport"], pairs)
    finally:
        os.unlink(trace)


def test_topologies_of_the_mapping():
    run_all([(SMALL, *pair) for pair in TOPOLOGIES] + [(SMALL_MLA, *pair) for pair in MLA_TOPOLOGIES], 100)


def test_more_topologies():
    run_all(MORE, 200)


def test_layouts_in_any_pairing():
    run_all([(SMALL, f"tp=2,layout={a}", f"tp=1,layout={b}") for a in LAYOUTS for b in LAYOUTS], 300, "--sum")


def test_striped_replicas():
    run_all([(SMALL, "tp=8", "tp=2"), (SMALL_MLA, "tp=4", "tp=2,attention-dp")], 400, "--replica", "stripe")


if __name__ == "__main__":
    main(globals())
