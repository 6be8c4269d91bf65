# A thin face on Meson and Ninja. Everything real is in meson.build; this file only says the usual things first:
# fetch what is missing (tools/bootstrap), configure the build directory once, build, run.
#
#   make demo      build the command and run `kvferry demo`
#   make test      build everything, run every test, say how many passed, failed and were skipped
#   make bench     build and run the benchmarks
#   make soak      200,000 runs of the virtual cluster, or SOAK_SEEDS=A-B
#   make mutants   plant known defects, one at a time, and show that the tests or the virtual cluster catch each
#   make install   PREFIX=/usr/local, DESTDIR=
#   make clean     remove the build directory
#
# BUILD=dir uses another build directory. SETUP="-Dzmq=disabled ..." goes to `meson setup` when that directory is made.
# BOOTSTRAP= (empty) skips the look for missing packages.

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
SETUP ?= -Dzmq=enabled
BOOTSTRAP ?= tools/bootstrap
JOBS ?=
TEST_ARGS ?= --timeout-multiplier=3
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_SEEDS ?= 1-200000
MUTANTS_ARGS ?=

NINJA = ninja -C $(BUILD) $(if $(JOBS),-j$(JOBS))
bootstrap = $(if $(BOOTSTRAP),@$(BOOTSTRAP) $(1))

.PHONY: all demo test bench soak mutants install clean

all:
	$(call bootstrap,build)
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	$(NINJA)

demo:
	$(call bootstrap,build)
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	$(NINJA) cli/kvferry
	$(BUILD)/cli/kvferry demo $(DEMO_ARGS)

# A build directory that `make demo` made before cmocka was there knows of no tests: the stamp makes Meson look again.
test:
	$(call bootstrap,build test)
	@$(MAKE) --no-print-directory $(BUILD)/.with-tests
	$(NINJA)
	@rm -f $(BUILD)/meson-logs/testlog.json
	@status=0; meson test -C $(BUILD) --no-rebuild --print-errorlogs $(TEST_ARGS) || status=$$?; \
	tools/test_report $(BUILD)/meson-logs/testlog.json || status=1; exit $$status

bench:
	$(call bootstrap,build)
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	$(NINJA) bench/kvferry-bench bench/kvferry-bench-walk
	@$(BUILD)/bench/kvferry-bench-walk
	@$(BUILD)/bench/kvferry-bench $(BENCH_ARGS)

soak:
	$(call bootstrap,build)
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	$(NINJA) cli/kvferry
	$(BUILD)/cli/kvferry sim --seeds $(SOAK_SEEDS)

# In a copy of the committed tree, build-mutants.
mutants:
	$(call bootstrap,build test)
	tests/mutants/run $(MUTANTS_ARGS)

install:
	$(call bootstrap,build)
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	@dir="$(DESTDIR)$(PREFIX)"; while [ ! -e "$$dir" ]; do dir=$$(dirname "$$dir"); done; [ -w "$$dir" ] || \
		{ echo "make install: $$dir is not writable: run it with sudo, or give PREFIX= or DESTDIR=" >&2; exit 1; }
	meson configure $(BUILD) -Dprefix=$(PREFIX)
	$(NINJA)
	DESTDIR="$(DESTDIR)" meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD)

$(BUILD)/build.ninja:
	meson setup $(BUILD) $(SETUP)

$(BUILD)/.with-tests:
	@if test -f $(BUILD)/build.ninja; then meson setup --reconfigure $(BUILD) -Dtests=enabled; \
	else meson setup $(BUILD) $(SETUP) -Dtests=enabled; fi
	@touch $@
