"""kvferry sim: runs repeat themselves bit for bit, failures are told with the command that repeats them."""
from harness import USAGE, good, main, refused


def test_the_same_seed_is_the_same_run():
    first, again = (good("sim", "--seed", "7", "--faults", "delay,reorder", "--json").json() for _ in range(2))
    assert first == again and len(first["hash"]) == 16 and not first["failed"], (first, again)
    assert good("sim", "--seed", "8", "--json").json()["hash"] != first["hash"]


def test_the_trace_is_the_same_too_and_names_what_happens():
    first, again = (good("sim", "--seed", "3", "--faults", "none", "--trace").out for _ in range(2))
    assert first == again
    for words in ("opens tx of request 1.0", "opens rx of request 1.0", "REQUEST", "RESULT", "OUTCOME of request 1.0: OK",
                  "RELEASED of request 1.0"):
        assert words in first, words


def test_without_faults_everything_completes():
    numbers = good("sim", "--seeds", "1-60", "--faults", "none", "--json", timeout=300).json()
    outcomes = numbers["outcomes"]
    assert numbers["seeds"] == 60 and outcomes["completed"] > 500, numbers
    assert {name: n for name, n in outcomes.items() if n and name != "completed"} == {}, numbers
    assert numbers["quarantined_at_end"] == 0 and numbers["failures"] == [], numbers


def test_messages_lost_late_twice_or_out_of_order_fail_no_session():
    numbers = good("sim", "--seeds", "1-60", "--faults", "delay,reorder,drop,duplicate,slow,overtake", "--json", timeout=300).json()
    assert numbers["outcomes"]["completed"] > 500 and numbers["outcomes"]["failed"] == 0, numbers


def test_left_out_requests_do_not_happen():
    trace = good("sim", "--seed", "3", "--faults", "none", "--trace", "--skip-requests", "0").out
    assert "request 1.0" not in trace and "request 2.0" in trace


def test_mistakes_are_usage():
    refused(USAGE, "sim", "--seed", "x", says="--seed: 'x' is not a whole number")
    refused(USAGE, "sim", "--seed", "99999999999999999999", says="--seed: '99999999999999999999' is out of range")
    refused(USAGE, "sim", "--seeds", "9-3", says="--seeds: '9-3' is empty")
    refused(USAGE, "sim", "--seeds", "1-x", says="--seeds: '1-x' is not a range")
    refused(USAGE, "sim", "--seeds", "1-2", "--trace", says="--trace: is for one run")
    refused(USAGE, "sim", "--seeds", "1-2", "--skip-requests", "0", says="--skip-requests: is for one run")
    refused(USAGE, "sim", "--seed", "1", "--seeds", "1-2", says="exclude")
    refused(USAGE, "sim", "--faults", "drop,rain", says="rain")
    refused(USAGE, "sim", "--faults", "dropp", says="--faults: 'dropp' is no fault; did you mean 'drop'?")
    refused(USAGE, "sim", "--skip-strikes", "64", says="--skip-strikes: '64' is out of range")
    refused(USAGE, "sim", "--replay", "x", "--seed", "1", says="--seed has no meaning beside it")
    refused(USAGE, "sim", "--ranks", "1", says="--ranks")


if __name__ == "__main__":
    main(globals())
