"""kvferry demo: a newcomer's first run ends well, and says so in words."""
from harness import USAGE, good, main, refused
from replay_tools import check, has_zmq


def test_the_demo_tells_what_happened():
    result = good("demo", timeout=400)
    for words in ("40 requests", "llama-3.2-1b", "4 prefill", "2 decode", "2 of the 8 KV heads", "4 of the 8 KV heads",
                  "0 wrong", "GB/s"):
        assert words in result.out, f"{words}: {result.out}"
    assert result.err == "" and "\033" not in result.out, result


def test_the_demo_has_the_json_of_replay():
    numbers = good("demo", "--json", "--seed", "2", timeout=400).json()
    check(numbers, "shm" if has_zmq() else "loop")
    assert numbers["requests"] == 40 and list(numbers["transport"]) == ["0:0", "1:0", "2:1", "3:1"], numbers


def test_mistakes_are_usage():
    refused(USAGE, "demo", "--fast", says="--fast")


if __name__ == "__main__":
    main(globals())
