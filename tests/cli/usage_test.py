"""What every subcommand has in common: help, exit codes, messages, colours."""
from harness import FAILED, OK, USAGE, good, main, refused, run, run_on_terminal

PLAN = ["plan", "--model", "llama-3.2-1b", "--tokens", "64"]


def subcommands():
    lines = good("--help").out.split("Usage:")[1].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and not line.strip().startswith("kvferry")]


def test_help_lists_the_subcommands():
    names = subcommands()
    for name in ("plan", "models", "trace"):
        assert name in names, names


def test_every_subcommand_has_help_with_examples():
    for name in subcommands():
        for option in ("--help", "-h"):
            result = good(name, option)
            assert result.out.startswith(f"kvferry {name} - "), result.out
            for words in ("Usage:", "Options:", "Examples:", f"  kvferry {name}", "--help"):
                assert words in result.out, f"{name}: {words}"
            assert result.err == ""


def test_help_wins_over_mistakes():
    assert run("plan", "--nonsense", "--help").code == OK


def test_version():
    assert good("--version").out.startswith("kvferry 0.")


def test_no_command_is_usage():
    result = run()
    assert result.code == USAGE and result.out == "" and "Usage:" in result.err


def test_unknown_command_suggests():
    refused(USAGE, "plam", says="did you mean 'plan'?")
    refused(USAGE, "xyzzy", says="unknown command 'xyzzy'")


def test_unknown_option_suggests():
    refused(USAGE, *PLAN, "--decod", "tp=2", says="unknown option --decod; did you mean --decode?")
    refused(USAGE, *PLAN, "--zzzzzz", says="unknown option --zzzzzz")
    refused(USAGE, *PLAN, "-x", says="unknown option")


def test_values_are_checked():
    refused(USAGE, "plan", "--tokens", says="--tokens needs a value: N")
    refused(USAGE, "plan", "--tokens", "--json", says="--tokens needs a value")
    refused(USAGE, "plan", "--tokens=", says="--tokens: '' is not a whole number")
    refused(USAGE, "plan", "--tokens", "12x", says="--tokens: '12x' is not a whole number")
    refused(USAGE, "plan", "--tokens", "0", says="--tokens: '0' is out of range; allowed: 1 to 4294967296")
    refused(USAGE, "plan", "--json=yes", says="--json takes no value")
    refused(USAGE, *PLAN, "--replica", "stripes", says="'stripes' is none of elect|stripe; did you mean stripe?")
    refused(USAGE, *PLAN, "--tokens", "65", says="--tokens is given twice")
    refused(USAGE, *PLAN, "extra", says="unexpected argument 'extra'")
    refused(USAGE, "plan", "--model", "llama-3.2-1b", says="--tokens N is needed")
    refused(USAGE, "plan", "--tokens", "1", says="--model M is needed")


def test_equals_and_space_mean_the_same():
    one = good("plan", "--model=llama-3.2-1b", "--tokens=64", "--json").out
    assert one == good(*PLAN, "--json").out


def test_pipes_have_no_colours():
    for arguments in (["--help"], ["plan", "--help"], ["models"], PLAN + ["--explain"]):
        assert "\033" not in good(*arguments).out


def test_terminals_have_colours_unless_told_otherwise():
    assert "\033[" in run_on_terminal(*PLAN).out
    assert "\033[" not in run_on_terminal(*PLAN, environment={"NO_COLOR": "1"}).out
    assert "\033[" not in run_on_terminal(*PLAN, environment={"TERM": "dumb"}).out
    assert "\033[" not in run_on_terminal(*PLAN, "--json").out


def test_a_full_disk_is_an_error():
    import subprocess
    from harness import COMMAND
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "models"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == FAILED and "cannot write" in done.stderr


if __name__ == "__main__":
    main(globals())
