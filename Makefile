# The commands for users, developers and continuous integration. Needs Python 3.11 or newer, make and a package index;
# everything else is installed into .venv. `make` alone lists the targets. Without make, as on Windows: see the README.
# Must work with GNU make 3.81, the version on macOS.

PYTHON ?=
VENV := .venv
ifeq ($(OS),Windows_NT)
PY := $(VENV)/Scripts/python.exe
else
PY := $(VENV)/bin/python
endif
APP_READY := $(VENV)/.app-installed
DEV_READY := $(VENV)/.dev-installed
PEERS_READY := $(VENV)/.peers-installed
ALONE := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PIP := $(PY) -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help app test test-fast test-slow test-cpus gpu-check bench lint types format zoo story claims docs check clean

help:
	@echo "make app        start the app; the first time this makes .venv and installs what it needs"
	@echo "make check      say whether this machine is ready, and what to do if it is not"
	@echo "make test       lint, types, and all tests but the slow ones"
	@echo "make test-fast  only the tests that need no browser, no notebook and no server: two minutes"
	@echo "make test-slow  the slow tests"
	@echo "make test-cpus  the tests of attacks, networks and training as on other processors: an hour (ONLY='AVX2 busy': some of it)"
	@echo "make gpu-check  try everything on this machine's GPU, within eight minutes; without one, at toy size on the processor"
	@echo "make bench      compare the speed of our attacks, maps and pages with other libraries (ONLY=B1,B9: some of it); writes docs/speed.md's table"
	@echo "make lint       lint only;  make types: check the types;  make format: format the code"
	@echo "make zoo        train the shipped networks again;  make story: compute the shipped results of the first screens again"
	@echo "make claims     train and measure what the papers' claims need: takes hours, resumes where it was interrupted (ONLY='digits shapes': on these)"
	@echo "make docs       build the documentation as a site, into build/docs"
	@echo "make clean      remove .venv and what tests leave behind; never a run"

app: $(APP_READY)
	@$(PY) -m robustviz app

claims: $(APP_READY)
	@$(PY) -m robustviz claims $(ONLY)

check: $(APP_READY)
	@$(PY) -m robustviz check

zoo: $(APP_READY)
	@$(PY) -m robustviz.zoo

story: $(APP_READY)
	@$(PY) -m robustviz.views.start.pack

# One pytest session in three processes, for two cores: the one that runs all browser tests waits for the browser about half
# of the time. One thread each: with two threads, linear algebra would wait for a core that another process uses. A test checks
# the types, beside the others.
test: lint
	@$(PY) tests/browser/chromium.py
	@$(ALONE) $(PY) -m pytest -m "not slow" -n 3 --dist loadscope --no-loadscope-reorder

test-fast: $(DEV_READY)
	@$(ALONE) $(PY) -m pytest tests/unit tests/golden tests/contracts -m "not slow and not long" -n 2 --dist loadscope --no-loadscope-reorder

test-slow: $(DEV_READY)
	@$(PY) tests/browser/chromium.py
	@$(PY) -m pytest -m slow --timeout=3600

# tests/cpus.py defines the settings; ONLY selects some of them.
test-cpus: $(DEV_READY)
	@$(PY) tests/cpus.py $(ONLY)

# For a GPU server that has torch but maybe no package index: installs nothing. Uses $(PYTHON) if set, else .venv, else python3.
gpu-check:
	@PYTHONPATH=$(VENV)/peers $(or $(PYTHON),$(wildcard $(PY)),python3) -m benchmarks.gpu_check

# The peers (other libraries) are installed into a folder of their own, without their dependencies, because one of them pins an
# old version of requests. ONLY=B1,B9 runs only these items.
bench: $(DEV_READY) $(PEERS_READY)
	@PYTHONPATH=$(VENV)/peers $(PY) -m benchmarks $(if $(ONLY),--only $(ONLY))

lint: $(DEV_READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(DEV_READY)
	@$(PY) -m mypy

docs: $(DEV_READY)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "build/docs/index.html"

format: $(DEV_READY)
	@$(PY) -m ruff check --fix --exit-zero .
	@$(PY) -m ruff format .

clean:
	rm -rf $(VENV) build robustviz.egg-info test-results .pytest_cache .mypy_cache .ruff_cache

# The targets below are stamp files inside .venv: a second call finds them and is instant, and removing .venv removes them too.

$(APP_READY): requirements.txt
	@$(make_venv)
	@$(PY) -m robustviz.install requirements.txt || { $(no_index); exit 1; }
	@touch $@

$(DEV_READY): requirements.txt requirements-dev.txt
	@$(make_venv)
	@$(PY) -m robustviz.install requirements-dev.txt || { $(no_index); exit 1; }
	@touch $@ $(APP_READY)

$(PEERS_READY): benchmarks/requirements.txt $(APP_READY)
	@$(PIP) --no-deps --upgrade --target $(VENV)/peers -r benchmarks/requirements.txt || { $(no_index); exit 1; }
	@touch $@

no_index = echo "make: the packages could not be installed; pip's last line says why. Is the package index reachable, and is there room on the disk?" >&2

# Keeps a .venv that works. Otherwise makes one with $(PYTHON), or with the first Python on the path that is new enough.
new_enough = import sys; sys.exit(sys.version_info < (3, 11))
define make_venv
$(PY) -c "import pip; $(new_enough)" 2>/dev/null && exit 0; \
python="$(PYTHON)"; \
if [ -z "$$python" ]; then for name in python3 python python3.14 python3.13 python3.12 python3.11; do \
    if $$name -c "$(new_enough)" >/dev/null 2>&1; then python=$$name; break; fi; done; fi; \
if [ -z "$$python" ] || ! "$$python" -c "$(new_enough)" >/dev/null 2>&1; then \
    echo "make: robustviz needs Python 3.11 or newer, and $${python:-python3} is not that. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
"$$python" -c "import venv, ensurepip" 2>/dev/null || { \
    echo "make: this Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
echo "Making $(VENV) with $$python ..."; \
"$$python" -m venv --clear $(VENV)
endef
