"""kvferry trace: the file it writes."""
import json
import os
import tempfile

from harness import FAILED, USAGE, good, main, refused


def test_lines_are_requests():
    lines = good("trace", "--requests", "50", "--seed", "3").out.splitlines()
    assert len(lines) == 50
    last = 0
    for line in lines:
        request = json.loads(line)
        assert list(request) == ["timestamp", "input_length", "output_length", "hash_ids"]
        assert len(request["hash_ids"]) == -(-request["input_length"] // 512)
        assert request["timestamp"] >= last
        last = request["timestamp"]


def test_the_seed_decides():
    one = good("trace", "--requests", "20", "--seed", "3").out
    assert one == good("trace", "--requests", "20", "--seed", "3").out
    assert one != good("trace", "--requests", "20", "--seed", "4").out


def test_max_tokens_bounds_the_prompts():
    for line in good("trace", "--requests", "200", "--max-tokens", "1000").out.splitlines():
        assert 1 <= json.loads(line)["input_length"] <= 1000


def test_out_and_json():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "t.jsonl")
        summary = good("trace", "--requests", "7", "--out", path, "--json").json()
        with open(path) as file:
            requests = [json.loads(line) for line in file]
        assert summary["requests"] == len(requests) == 7
        assert summary["input_tokens"] == sum(request["input_length"] for request in requests)
        result = good("trace", "--requests", "7", "--out", path)
        assert result.out == "" and "wrote 7 requests" in result.err


def test_mistakes():
    refused(USAGE, "trace", "--requests", "0", says="--requests: '0' is out of range")
    refused(USAGE, "trace", "--requests", "-1", says="--requests: '-1'")
    refused(USAGE, "trace", "--max-tokens", "0", says="--max-tokens: '0'")
    refused(USAGE, "trace", "--json", says="--json: needs --out")
    refused(FAILED, "trace", "--out", "/nonexistent/x", says="cannot open '/nonexistent/x'")
    refused(FAILED, "trace", "--requests", "5000", "--out", "/dev/full", says="cannot write")


if __name__ == "__main__":
    main(globals())
