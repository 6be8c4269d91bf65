"""kvferry replay and its processes: Ctrl-C, killed ranks, a killed coordinator; nothing is left behind."""
import json
import os
import signal
import subprocess
import tempfile
import time

from harness import COMMAND, FAILED, main, temporary_file
from replay_tools import transports

TINY = "layers=2,heads=2,head_dim=16,dtype=fp16"
DEADLINE_S = 60


def wait_until(condition, what):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.01)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def shared_memory():
    return {name for name in os.listdir("/dev/shm") if "kvf" in name}


def switches(pid):
    """How often a process has slept."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(next(line.split()[1] for line in file if line.startswith("voluntary_ctxt_switches")))


class Running:
    """A replay that will not end by itself: busy with a hundred thousand requests, or at its start."""

    def __init__(self, transport, busy=True):
        line = {"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1]}
        self.trace = temporary_file((json.dumps(line) + "\n") * 100000)
        self.directory = tempfile.mkdtemp(prefix="kvferry-test-")
        self.before = shared_memory()
        self.n_ranks = 1 if transport == "loop" else 3
        arguments = ["replay", self.trace, "--model", TINY, "--prefill", "tp=2", "--pool", "1MiB", "--transport",
                     transport]
        self.process = subprocess.Popen([COMMAND, *arguments], env=dict(os.environ, TMPDIR=self.directory),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        start_new_session=True)
        wait_until(lambda: len(children_of(self.process.pid)) == self.n_ranks or self.process.poll() is not None,
                   "the ranks have started")
        self.ranks = children_of(self.process.pid)
        if busy:  # starting and connecting takes some ten reports, each request as many
            wait_until(lambda: switches(self.process.pid) > 300, "requests are moving")

    def end(self):
        out, err = self.process.communicate(timeout=DEADLINE_S)
        wait_until(lambda: not any(is_alive(pid) for pid in self.ranks), "the ranks have ended")
        left = os.listdir(self.directory)
        os.unlink(self.trace)
        assert shared_memory() <= self.before, "something is left in /dev/shm"
        return out, err, left


def each_transport(function):
    for transport in transports():
        function(transport)


def test_interrupt_ends_everything():
    def interrupt(transport):
        for number, busy in ((signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True)):
            running = Running(transport, busy)
            # As a terminal does it: to the whole group.
            os.killpg(running.process.pid, number) if number == signal.SIGINT else running.process.send_signal(number)
            out, err, left = running.end()
            assert running.process.returncode == 128 + number, (running.process.returncode, err)
            assert "interrupted" in err and out == "" and left == [], (out, err, left)
            os.rmdir(running.directory)
    each_transport(interrupt)


def test_a_rank_that_dies_ends_the_run():
    def kill(transport):
        running = Running(transport)
        os.kill(running.ranks[-1], signal.SIGKILL)
        out, err, left = running.end()
        assert running.process.returncode == FAILED, (running.process.returncode, err)
        assert "was killed by signal 9" in err and out == "" and left == [], (out, err, left)
        os.rmdir(running.directory)
    each_transport(kill)


def test_ranks_clean_up_after_a_killed_coordinator():
    def kill(transport):
        running = Running(transport)
        running.process.kill()
        _, _, left = running.end()
        assert left == [], left
        os.rmdir(running.directory)
    each_transport(kill)


if __name__ == "__main__":
    main(globals())
