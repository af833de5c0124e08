# make train   set up .venv and run the main job: train.py on configs/blobs.yaml
# make test    the same environment plus test tools: lint, types, tests
# make test-all  the slow checks too
# make test-oldest  the tests by Python 3.10 and the oldest packages that pyproject.toml promises, in
#            .venv-oldest; torch alone is several gigabytes; OLDEST_PYTHON=... names another Python
# make test-gpu PYTHON=...  the checks that need a CUDA device, by an interpreter that has torch,
#            numpy and pytest (the default is that of .venv); installs nothing, needs no network
# make docs    pages of docs/ and of the docstrings into build/docs, whose doctests run; Python 3.11
#            or newer
# make dist    wheel and sdist in dist/, each of which is installed into an empty environment, and fits
# make bench   k-means, and a codebook of 65,536 codes, side by side with peers; more:
#            .venv/bin/python -m benchmarks --help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
OLDEST_PYTHON ?= python3.10
VENV := .venv
OLDEST := .venv-oldest
WORKERS ?= auto
BIN := $(VENV)/bin
# For tests of the Triton kernels without a GPU: 3.9 has the interpreter that computes as devices do;
# kernels are to compile with the others too, which come with torch 2.11 and 2.13.
TRITONS := 3.9.0 3.7.1 3.6.0
# Versions of Python 3.11 and newer; for 3.10, which many of them have left behind, pip chooses.
export PIP_CONSTRAINT := $(if $(shell $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) and print(1)'),$(CURDIR)/constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: train test test-all test-oldest test-gpu docs dist bench lint clean

train: $(VENV)/.train
	@echo "Clustering the blobs of configs/blobs.yaml; your own data: configs/table.yaml, configs/image.yaml"
	$(BIN)/python train.py fit --config configs/blobs.yaml

# Files of tests go to as many processes as there are cores; --dist loadfile keeps fixtures together.
test: lint $(VENV)/triton-3.9.0/.there
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-all: lint $(TRITONS:%=$(VENV)/triton-%/.there)
	$(BIN)/python -m pytest -n auto --dist loadfile

# Old packages use what newer ones of their own requirements deprecate: warnings are no errors here.
test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile -o filterwarnings=default

# Where the package is not installed it comes from here, perhaps without its native kernel; options
# of pyproject.toml that ask for other packages are left out.
GPU_PYTHON = $(if $(filter command environment,$(origin PYTHON)),$(PYTHON),$(BIN)/python)
test-gpu: export PYTHONPATH := $(CURDIR)
test-gpu: export KMEANS_TEST_GPU := 1
test-gpu:
	@command -v $(GPU_PYTHON) >/dev/null || \
	{ echo "make test-gpu: there is no $(GPU_PYTHON); name one: make test-gpu PYTHON=..." >&2; exit 1; }
	@there=$$($(GPU_PYTHON) -c 'import torch; print(torch.cuda.is_available())') && \
	if [ "$$there" = True ]; \
	then $(GPU_PYTHON) -m pytest tests/gpu tests/triton/test_kernels.py tests/triton/test_rows.py -q -ra \
		-o addopts= -o filterwarnings=default -p no:cacheprovider \
		$$($(GPU_PYTHON) -c 'import xdist; print("-n 4")' 2>/dev/null); \
	else echo "make test-gpu: torch sees no CUDA device; nothing was tested"; fi

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests/native benchmarks -name '*.h' -o -name '*.cpp' | \
		xargs $(BIN)/clang-format --dry-run -Werror

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs
	$(BIN)/python -m pytest --doctest-modules --doctest-glob=index.rst -q kmeans_module docs/index.rst
	grep -q "<math " build/docs/api/layer.html
	@echo "build/docs/index.html"

# On Linux auditwheel, which finds patchelf on PATH, names the oldest glibc that the wheel runs with. The
# fits are away from here, so that nothing of this folder is imported. `kmeans --version` prints at last
# whether the kernel was built.
dist: export KMEANS_REQUIRE_NATIVE := 1
dist: export PATH := $(CURDIR)/$(BIN):$(PATH)
dist: $(VENV)/.dist
	rm -rf dist
	$(BIN)/python -m build
	case "$$(uname)" in Linux) auditwheel repair --wheel-dir dist dist/*.whl && rm dist/*-linux_*.whl;; esac
	set -e; for file in $(CURDIR)/dist/*; do \
		echo "$$file in an empty environment:"; \
		empty=$$(mktemp -d); trap 'rm -rf "$$empty"' EXIT; \
		$(BIN)/python -m venv "$$empty"; "$$empty/bin/pip" install --quiet "$$file"; \
		(cd "$$empty" && bin/kmeans fit && test -s runs/blobs/version_0/labels.npy && bin/kmeans --version); \
		rm -rf "$$empty"; \
	done

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks lloyd
	$(BIN)/python -m benchmarks many_codes

$(VENV)/.train: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch, Lightning and the C++ kernel take some minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --editable .
	@touch $@
	@echo "$(VENV) is ready"

$(VENV)/.test: $(VENV)/.train
	$(BIN)/pip install --quiet --group test
	touch $@

$(OLDEST)/.test: export PIP_CONSTRAINT := $(CURDIR)/oldest.txt
$(OLDEST)/.test: pyproject.toml oldest.txt
	@test -x $(OLDEST)/bin/python || command -v $(OLDEST_PYTHON) >/dev/null || \
	{ echo "make test-oldest: there is no $(OLDEST_PYTHON); name one: make test-oldest OLDEST_PYTHON=..." >&2; exit 1; }
	test -x $(OLDEST)/bin/python || $(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade pip
	$(OLDEST)/bin/pip install --editable . --group test
	touch $@

# Beside the packages, not among them: torch may bring another one. No constraint speaks for it.
$(VENV)/triton-%/.there: | $(VENV)/.test
	rm -rf $(@D)
	mkdir -p $(@D)
	if $(BIN)/python -c 'import sys; sys.exit(sys.platform != "linux" or sys.version_info < (3, 11))'; \
	then env -u PIP_CONSTRAINT $(BIN)/pip install --quiet --no-deps --target $(@D) triton==$* || \
		{ echo "make: Triton $* could not be installed; the tests of its kernels need it" >&2; exit 1; }; \
	else echo "Tests of the Triton kernels are left out: they need Linux and Python 3.11 or newer"; fi
	touch $@

$(VENV)/.docs: $(VENV)/.train
	$(BIN)/pip install --quiet --group docs
	touch $@

$(VENV)/.dist: $(VENV)/.train
	$(BIN)/pip install --quiet --group dist
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/pip install --quiet --group bench
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache build dist
