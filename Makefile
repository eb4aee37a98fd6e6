# The two commands: `make run` and `make test`. Each sets up what it needs the first time.
# Overrides are passed on: make run ARGS="pipeline=fgbg bg_threshold=0.2"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Where this is set, every start would compile PyTorch's Python files anew: 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run explore test test-ray docs quick soak coverage mutants bench answer figures check lock clean

run: $(INSTALLED)
	@$(BIN)/python run.py $(ARGS)

# A local page: change a setting and see at once what becomes of an image. make explore ARGS="data=folder data.root=PATH"
explore: $(INSTALLED)
	@$(BIN)/python run.py task=explore $(ARGS)

# A process more than there are cores, as tests also wait, up to four. One thread each: most keep no second core busy.
WORKERS = $(shell $(BIN)/python -c "import os; print(min(4, os.cpu_count() + 1))")
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# Where tensors are computed with, shapes and dtypes of annotations are checked, which takes half as long again.
CHECKED := $(addprefix tests/,classifiers data engine explainers metrics prompts refiners segmenters selectors studies \
	training faults/test_boundaries.py faults/test_properties.py)
test: $(INSTALLED)
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@$(PYTEST) $(CHECKED) --jaxtyping-packages=gradsam_exp,studies,beartype.beartype
	@$(PYTEST) $(addprefix --ignore=,$(CHECKED))
endif

# What is installed in the environment shows through in another, whose own packages count first.
beneath = $(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
	> $$($(1)/bin/python -c 'import site; print(site.getsitepackages()[0])')/beneath.pth

# Sweeps on Ray, whose launcher wants an older cloudpickle than joblib does: an environment on top of the other.
RAY := .venv-ray
test-ray: $(RAY)/.installed
	@OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest tests/e2e/test_launchers.py -k "ray" $(ARGS)

$(RAY)/.installed: $(INSTALLED)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(RAY)
	@$(BIN)/uv pip install --quiet --python $(RAY)/bin/python "hydra-ray-launcher>=1.2"
	@$(call beneath,$(RAY))
	@touch $@

# The pages as a site, from disk: docs/site/html/index.html. Without its pictures: make docs ARGS="-D pictures=0"
DOCS := .venv-docs
docs: $(DOCS)/.installed
	@OMP_NUM_THREADS=1 $(DOCS)/bin/python -m sphinx -q -W --keep-going -b html -c docs/site $(ARGS) . docs/site/html
	@echo "docs/site/html/docs/site/index.html"

$(DOCS)/.installed: $(INSTALLED)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(DOCS)
	@$(BIN)/uv pip install --quiet --python $(DOCS)/bin/python "sphinx>=9,<10" "myst-parser>=5,<6" furo sphinx-copybutton
	@$(call beneath,$(DOCS))
	@touch $@

# The tests that train nothing, run no commands and start no processes.
quick: $(INSTALLED)
	@$(PYTEST) -m "not slow" $(ARGS)

# Faults, load and fuzzing with large counts: hours on two cores. See docs/reliability.md.
soak: $(INSTALLED)
	@GRADSAM_EXP_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/faults \
		$$(grep -rl --include="test_*.py" "faults.counts" tests | grep -v ^tests/faults/) $(ARGS)

# The lines and branches that the tests run; of those in other processes as well.
coverage: $(INSTALLED)
	@$(PYTEST) --cov --cov-report=term $(ARGS)

# Which small changes of the code no quick test notices; all 7 000 take hours:
# make mutants ARGS="'gradsam_exp.metrics.dice*'"
MUTMUT := .venv-mutmut
mutants: $(MUTMUT)/.installed
	@OMP_NUM_THREADS=1 $(MUTMUT)/bin/mutmut run $(ARGS)

$(MUTMUT)/.installed: $(INSTALLED)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(MUTMUT)
	@$(BIN)/uv pip install --quiet --python $(MUTMUT)/bin/python "mutmut>=3.8,<4"
	@$(call beneath,$(MUTMUT))
	@touch $@

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

# Every figure and table of README and docs/, from runs: make figures ARGS="cifar10_root=PATH photographs=PATH"
# (photographs: the folder of BSDS500). Half a day on two cores; finished runs are kept and taken when it is started again.
given = $(patsubst $(1)=%,%,$(filter $(1)=%,$(ARGS)))
FIGURES := outputs/figures
figures: $(INSTALLED)
	@test -n "$(call given,cifar10_root)" -a -n "$(call given,photographs)" || \
		{ echo 'make figures needs ARGS="cifar10_root=PATH photographs=PATH"'; exit 1; }
	@$(BIN)/python -m studies.published --cifar10-root $(call given,cifar10_root) --photographs $(call given,photographs) \
		--out $(FIGURES)
	@$(MAKE) --no-print-directory answer ARGS="cifar10_root=$(call given,cifar10_root)"
	@$(BIN)/python -m studies.background_points.by_hit $(FIGURES)/tiers
	@$(BIN)/python -m studies.stage_losses $(FIGURES)/oracles-mixed $(FIGURES)/oracles-cifar10 --to $(FIGURES)/stage_losses
	@$(BIN)/python run.py experiment=faithfulness resume=true logger=none output_root=$(FIGURES)/faithfulness
	@$(BIN)/python -m studies.heatmap_metrics $(FIGURES)/faithfulness --to $(FIGURES)/heatmap_metrics
	@for name in gradcam layercam gradcam++ eigencam; do \
		for sam in compact compact_drawn; do $(BIN)/python -m studies.sanity_checks limit=64 explainer=$$name sam=$$sam \
			output_root=$(FIGURES)/sanity_checks/$$sam-$$name || exit 1; done; done

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
	rm -rf $(VENV) $(RAY) $(DOCS) $(MUTMUT) mutants

# uv chooses builds of torch and torchvision that belong together; pip alone may not.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradsam_exp needs Python 3.11 or newer, this is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@echo "Setting up $(VENV) (once; a few GB with torch's libraries)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
