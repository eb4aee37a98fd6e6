# The two commands: `make run` and `make test`. Each sets up what it needs the first time.
# Overrides are passed on: make run ARGS="pipeline=fgbg bg_threshold=0.2"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Where this is set, every start would compile PyTorch's Python files anew: 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-ray quick soak coverage bench answer check lock clean

run: $(INSTALLED)
	@$(BIN)/python run.py $(ARGS)

# A process per core, up to four, with one thread each: most tests keep no second one busy.
# Shapes and dtypes of annotations are checked meanwhile, which takes half as long again.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test: $(INSTALLED)
	@$(PYTEST) --jaxtyping-packages=gradsam_exp,studies,beartype.beartype $(ARGS)

# Sweeps on Ray, whose launcher wants an older cloudpickle than joblib does: an environment on top of the other.
RAY := .venv-ray
test-ray: $(RAY)/.installed
	@OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest tests/e2e/test_launchers.py -k "ray" $(ARGS)

$(RAY)/.installed: $(INSTALLED)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(RAY)
	@$(BIN)/uv pip install --quiet --python $(RAY)/bin/python "hydra-ray-launcher>=1.2"
	@$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$($(RAY)/bin/python -c 'import site; print(site.getsitepackages()[0])')/beneath.pth
	@touch $@

# The tests that take no training and start no processes.
quick: $(INSTALLED)
	@$(PYTEST) -m "not slow" $(ARGS)

# Faults, load and fuzzing with large counts: hours on two cores. See docs/reliability.md.
soak: $(INSTALLED)
	@GRADSAM_EXP_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/faults tests/engine/test_store.py $(ARGS)

# The lines and branches that the tests run; of those in other processes as well.
coverage: $(INSTALLED)
	@$(PYTEST) --cov=gradsam_exp --cov-branch --cov-report=term:skip-covered $(ARGS)

# Half an hour on two cores; each ends in one line of JSON. See benchmarks/RESULTS.md.
# On a GPU those of networks alone: make bench ARGS=device=cuda
BENCHMARKS := $(if $(ARGS),cam encode decode,cam ablation encode decode sweep startup growth)
bench: $(INSTALLED)
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(addprefix --,$(ARGS)) || exit 1; done

# Every run of docs/background-points.md but those of other weights: make answer ARGS="sam=vit_b cifar10_root=PATH"
BOTH := background=mixed,cifar10
answer: $(INSTALLED)
	@$(BIN)/python -m studies.background_points background=mixed $(ARGS)
	@$(BIN)/python -m studies.background_points background=cifar10 $(ARGS)
	@$(BIN)/python run.py experiment=fixes $(BOTH) $(ARGS)
	@$(BIN)/python run.py experiment=fixes split=test pipeline=fg,fgbg,box,box_points $(BOTH) $(ARGS)
	@$(BIN)/python run.py experiment=tta $(BOTH) $(ARGS)
	@$(BIN)/python run.py experiment=oracles explainer.target=predicted,label $(BOTH) $(ARGS)
	@$(BIN)/python run.py experiment=layers $(BOTH) $(ARGS)

# Format, lint, types and who imports whom, as pre-commit and CI see them.
check: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

# Pin the newest versions that pyproject.toml allows, for every platform.
lock: $(INSTALLED)
	@$(BIN)/uv pip compile --quiet --universal --upgrade --no-emit-index-url --python-version 3.11 \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) $(RAY)

# uv chooses builds of torch and torchvision that belong together; pip alone may not.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradsam_exp needs Python 3.11 or newer, this is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@echo "Setting up $(VENV) (once; a few GB with torch's libraries)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
