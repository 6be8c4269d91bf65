"""kvferry replay --fault: harm around real transports and control channels; what must not be lost is not."""
from harness import OK, USAGE, main, run
from replay_tools import SMALL, transports

GENTLE = "seed=5,within=5,late=0.1,hold=0.1,full=0.05,drop=0.1,repeat=0.1,doubt=0.3"
ROUGH = GENTLE + ",fail=0.02,break=0.02,damage=0.02"


def replay(transport, fault, *more):
    return run("replay", "--transport", transport, "--model", SMALL, "--prefill", "tp=1", "--decode", "tp=1", "--pool", "16MiB",
               "--max-tokens", "300", "--concurrency", "8", "--requests", "40", "--fault", fault, "--json", *more, timeout=600)


def test_what_is_late_lost_or_twice_costs_time_alone():
    for transport in transports():
        result = replay(transport, GENTLE)
        assert result.code == OK, f"{transport}: {result.err}"
        numbers = result.json()
        assert numbers["completed"] == 40 and numbers["mismatches"] == 0, f"{transport}: {numbers}"


def test_failures_lose_no_block_and_no_outcome():
    for transport in transports():
        if transport == "loop":
            continue
        result = replay(transport, ROUGH, "--chaos", "cancel=0.1", "--quiet", "200ms")
        assert result.code == OK, f"{transport}: {result.err}"
        numbers = result.json()
        assert sum(numbers["outcomes"].values()) == 40, numbers
        for key in ("mismatches", "canary_changed", "lost_blocks", "quarantined_at_end", "restarts_needed"):
            assert numbers[key] == 0, f"{transport}: {key}: {numbers}"


def test_damage_alone_on_shm_ends_connections_and_nothing_else():
    for transport in transports():
        if transport == "shm":
            numbers = replay(transport, "seed=9,damage=0.05", "--chaos", "cancel=0.05", "--quiet", "200ms").json()
            assert numbers["canary_changed"] == 0 and numbers["lost_blocks"] == 0, numbers


def test_a_spec_that_makes_no_sense_is_refused():
    for spec, says in (("drop=2", 'faults: drop: "2" is not a rate of 0 to 1'), ("lose=1", 'faults: "lose" is none of'),
                       ("within=0", 'faults: within: "0" is not in 1..60000 ms'), ("drop=0.1,", "ends with a comma")):
        result = replay("loop", spec)
        assert result.code == USAGE and says in result.err, result.err


def test_deadlines_that_make_no_sense_are_refused_before_a_rank_starts():
    for option, value, says in (("--ping", "6s", "ping_ns: 6000000000 is not less than silence_timeout_ns"),
                                ("--stall", "200s", "stall_timeout_ns: 200000000000 is more than transfer_timeout_ns")):
        result = replay("loop", "seed=1", option, value)
        assert result.code == USAGE and says in result.err, result.err


if __name__ == "__main__":
    main(globals())
