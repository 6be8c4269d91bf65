"""harness.py - runs the built command for the tests beside it. Plain python3, no packages.

A test file defines functions named test_*; main() runs them all and says which failed. Exit 77 means skipped.
"""
import json
import os
import pty
import subprocess
import sys
import tempfile
import traceback

COMMAND = os.environ.get("KVFERRY") or (sys.argv[1] if len(sys.argv) > 1 else "kvferry")
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OK, FAILED, USAGE = 0, 1, 2


class Skip(Exception):
    """Raised by a test that cannot run here; the text says why."""


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        return json.loads(self.out)


def run(*arguments, environment=None, text_in=None, timeout=120):
    """Run the command with pipes around it."""
    env = dict(os.environ, TERM="xterm-256color")
    env.pop("NO_COLOR", None)
    env.setdefault("MALLOC_PERTURB_", "85")  # what is used before it is set, or after it is freed, is no zero
    env.update(environment or {})
    done = subprocess.run([COMMAND, *arguments], env=env, input=text_in, stdin=None if text_in is not None else subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, text=True, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def run_on_terminal(*arguments, environment=None):
    """The same with a pseudo terminal as stdin, stdout and stderr; err is always empty."""
    env = dict(os.environ, TERM="xterm-256color")
    env.pop("NO_COLOR", None)
    env.update(environment or {})
    try:
        pid, fd = pty.fork()
    except OSError as error:
        raise Skip(f"no pseudo-terminals here: {error}") from error
    if pid == 0:
        os.execve(COMMAND, [COMMAND, *arguments], env)
    output = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        output += piece
    os.close(fd)
    _, status = os.waitpid(pid, 0)
    return Result(os.waitstatus_to_exitcode(status), output.decode(), "")


def good(*arguments, **options):
    result = run(*arguments, **options)
    assert result.code == OK, f"exit {result.code}: {result.err}"
    return result


def refused(code, *arguments, says, **options):
    """It must exit with this code, say these words on stderr, and print nothing on stdout."""
    result = run(*arguments, **options)
    assert result.code == code, f"{arguments}: exit {result.code}, not {code}: {result.err}{result.out[:300]}"
    for words in [says] if isinstance(says, str) else says:
        assert words in result.err, f"{arguments}: '{words}' is not in: {result.err}"
    assert result.out == "", f"{arguments}: stdout is not empty: {result.out[:300]}"
    assert "\033" not in result.err, f"{arguments}: colours in a pipe"
    return result


def plan(model, tokens, block, prefill, decode, *more):
    return good("plan", "--model", model, "--tokens", str(tokens), "--block-tokens", str(block), "--prefill", prefill,
                "--decode", decode, "--json", *more).json()


def temporary_file(text, suffix=""):
    handle, path = tempfile.mkstemp(suffix=suffix, prefix="kvferry-test-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return path


def main(names):
    failed = skipped = 0
    tests = [(name, function) for name, function in names.items() if name.startswith("test_")]
    for name, function in tests:
        try:
            function()
            print(f"ok   {name}")
        except Skip as reason:
            skipped += 1
            print(f"skip {name}: {reason}")
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f"FAIL {name}")
            traceback.print_exc(file=sys.stdout)
    print(f"{len(tests) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    if failed:
        sys.exit(1)
    sys.exit(77 if skipped and skipped == len(tests) else 0)
