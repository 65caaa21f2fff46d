# `make demo` and `make test` do all the set-up themselves; each needs only make, git and Python 3.10 or newer.
PYTHON ?= python3
WORKSPACE ?= workspace
BIN := .venv/bin

.PHONY: install demo test test-fast test-slurm-new lint faults fuzz growth growth-ways golden golden-renew bench gpu-proof cluster-up cluster-down

install: .venv/installed

.venv/installed: constraints.txt pyproject.toml
	@sh tests/install.sh $(PYTHON)

demo: .venv/installed
	@$(BIN)/python jobs/demo.py --home $(WORKSPACE) $(if $(DATA),--data $(DATA))

test: lint
	@bash tests/run.sh

# No root, no Slurm, no browser.
test-fast: lint
	@$(BIN)/python -m pytest -m "not slow" tests/unit tests/contract

# The tests on Slurm, in a chroot with another Debian's: make test-slurm-new [SUITE=trixie]; not part of `make test`.
test-slurm-new:
	@bash tests/slurm_new.sh $(or $(SUITE),trixie)

lint: .venv/installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

faults: .venv/installed
	@$(if $(DATA),FASHION_DIST_PHOTOS=$(abspath $(DATA)) )bash tests/run.sh faults

# Damaged pictures, tars and small files: make fuzz [CASES=100000] [SEED=1]; a bounded part of it is in `make test`.
fuzz: .venv/installed
	@$(BIN)/python tests/fuzz/run.py $(if $(CASES),--cases $(CASES)) $(if $(SEED),--seed $(SEED))

# Time, memory and file-system calls of n, 4 n and 16 n, within 15 minutes of a quiet machine: make growth [ROWS="status"]
growth: .venv/installed
	@$(BIN)/python tests/growth $(ROWS)

# Seconds and memory from raw files to the report with 50,000 classes, 1,000 attributes, or as many outfits as Polyvore
# has: make growth-ways [WAYS="classes"] [SHARE=0.05]
growth-ways: .venv/installed
	@$(BIN)/python tests/growth/ways.py $(WAYS) $(if $(SHARE),--share $(SHARE))

# Losses, weights and predictions of two commits, bit by bit: make golden BASE=COMMIT [TASK="clipart deepfashion"]
golden: .venv/installed
	@$(BIN)/python tests/golden/compare.py $(BASE) $(if $(HEAD),--head $(HEAD)) $(if $(TASK),--task $(TASK)) \
		$(if $(SET),--set $(SET))

golden-renew: .venv/installed
	@rm -rf build/golden && $(BIN)/python tests/golden/golden_files.py build/golden
	@rm -rf tests/golden/expected && cp -r build/golden tests/golden/expected

bench: .venv/installed
	@$(BIN)/python jobs/bench.py loader --home $(WORKSPACE)

# What only a GPU can show, within six minutes, with or without the set-up: make gpu-proof [ONLY=self_test,checks]
# [FASHION_MNIST=DIR]; DEVICE=cpu rehearses it.
gpu-proof:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/gpu_proof $(if $(DEVICE),--device $(DEVICE)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT)) $(if $(FASHION_MNIST),--fashion-mnist $(FASHION_MNIST))

cluster-up:
	@slurm/local/up.sh

cluster-down:
	@slurm/local/down.sh
