"""kvferry replay --record and kvferry sim --replay: a recorded run repeats bit for bit, and a record that was changed does not."""
import glob
import os
import re
import tempfile

from harness import FAILED, OK, Skip, good, main, refused, run
from replay_tools import has_zmq, transports

TINY = "layers=2,heads=2,head_dim=16,dtype=fp16"
HEAD_BYTES = 140  # more than magic, versions and configuration


def record(folder, *options):
    """The records of a small replay, by name of the rank."""
    base = os.path.join(folder, "run")
    result = run("replay", "--model", TINY, "--prefill", "tp=2", "--decode", "tp=1", "--requests", "12", "--record", base, *options)
    if "has no msgpack" in result.err:
        raise Skip("a record needs msgpack, and this build has none")
    assert result.code == OK, result.err
    paths = sorted(glob.glob(base + ".*"))
    assert len(paths) >= 3, paths
    return {path[len(base) + 1:]: path for path in paths}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(folder, data):
    path = os.path.join(folder, "changed")
    with open(path, "wb") as file:
        file.write(data)
    return path


def test_a_recorded_run_repeats_on_every_transport():
    for transport in transports():
        with tempfile.TemporaryDirectory() as folder:
            for path in record(folder, "--transport", transport, "--sum").values():
                report = good("sim", "--replay", path, "--json").json()
                assert report["same"] and not report["cut"], (transport, path, report)
                assert report["inputs"] > 20 and report["decisions"] > 20, (transport, path, report)


def test_ranks_that_are_killed_leave_a_record_that_repeats():
    if not has_zmq():
        raise Skip("ranks that are processes of their own need ZeroMQ, and this build has none")
    with tempfile.TemporaryDirectory() as folder:
        paths = record(folder, "--transport", "tcp", "--chaos", "kill=0.2,restart,cancel=0.3", "--quiet", "200ms").values()
        for path in paths:
            report = good("sim", "--replay", path, "--json").json()
            assert report["same"], (path, report)


def test_a_record_holds_no_more_than_its_owner_may_read():
    with tempfile.TemporaryDirectory() as folder:
        for path in record(folder, "--transport", "loop").values():
            assert os.stat(path).st_mode & 0o777 == 0o600, path


def test_what_happened_is_printed_line_by_line():
    with tempfile.TemporaryDirectory() as folder:
        path = record(folder, "--transport", "loop")["decode-0"]
        text = good("sim", "--replay", path, "--trace").out
        for words in ["SELF", "PEER_UP peer", "RX_OPEN session", "send REQUEST to peer", "MESSAGE RESULT of peer", "grant ", "event "]:
            assert words in text, words
        assert re.search(r"^\d+ inputs and \d+ decisions of [\d.]+ s, recorded by kvferry ", text, re.M), text[-300:]


def test_a_record_that_ends_early_repeats_as_far_as_it_goes():
    with tempfile.TemporaryDirectory() as folder:
        data = read(record(folder, "--transport", "loop")["decode-0"])
        cuts = 0
        for keep in range(HEAD_BYTES, len(data), max(1, len(data) // 97)):
            report = good("sim", "--replay", write(folder, data[:keep]), "--json").json()
            assert report["same"], (keep, report)
            cuts += report["cut"]
        assert cuts > 50, cuts


def test_another_decision_is_found_and_named():
    with tempfile.TemporaryDirectory() as folder:
        data = bytearray(read(record(folder, "--transport", "loop")["decode-0"]))
        events = [at for at in range(HEAD_BYTES, len(data) - 11) if data[at:at + 2] == b"C\x09" and data[at + 10:at + 11] in (b"C", b"E")]
        assert events
        data[events[-1] + 5] ^= 1
        result = run("sim", "--replay", write(folder, bytes(data)))
        assert result.code == FAILED, result.out
        assert re.search(r"^DIFFERS: step \d+, [\d.]+ s, .*: it calls event \d+, \d+ with other arguments than then$", result.out, re.M), result.out


def test_what_is_no_record_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        refused(FAILED, "sim", "--replay", os.path.join(folder, "none"), says="No such file")
        refused(FAILED, "sim", "--replay", write(folder, b"something else altogether, and long enough"), says="is no record")
        refused(FAILED, "sim", "--replay", write(folder, b"KVFREC1\n" + b"\xff" * 200), says="format 4294967295")
        refused(FAILED, "sim", "--replay", write(folder, b"KVFREC1\n\x01\0\0\0"), says="ends before its configuration")


def test_a_file_that_cannot_be_made_is_named():
    result = run("replay", "--model", TINY, "--requests", "1", "--transport", "loop", "--record", "/nowhere/at/all")
    assert result.code == FAILED, result.out
    assert "/nowhere/at/all" in result.err or "has no msgpack" in result.err, result.err


if __name__ == "__main__":
    main(globals())
