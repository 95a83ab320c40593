# make book | page | run | slides | exercises | pdf | results | test | test-book | test-colab | test-lowest | test-newest | lint |
#      links | address | env | assets | clean
# (each makes what it needs on a fresh machine)
SHELL := bash
.DEFAULT_GOAL := book
PYTHON ?= python3
VENV ?= .venv
# tests, and chapters, that run at once
export WORKERS ?= 2
# chapters are named on the command line; Windows' Linux has the computer's name in its environment
ifeq ($(origin NAME),environment)
NAME :=
endif

PY := $(VENV)/bin/python
# the environment is made again when what it was made from changes, and only then
READY := $(VENV)/.ready-$(shell cat requirements.txt pyproject.toml 2>/dev/null | $(PYTHON) -c "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])")
# one thread a process: with several notebooks at once, more threads only get in each other's way
export OMP_NUM_THREADS ?= 1
# for unit tests only: in the environment of a chapter it would keep the figures out
test-lowest test-newest: export MPLBACKEND = agg
# where the public weights can be downloaded, the chapter on them draws one image instead of hundreds
test test-colab: export DDIM_QUICK = 1

# The package as a wheel in $$D, a folder that goes when the recipe ends; and all notebooks run in an empty folder, where nothing
# of this checkout is found. (Built in there as well, so that two targets can run at once.)
WHEEL = D=$$(mktemp -d) && trap 'rm -rf "$$D"' EXIT && printf '[build]\nbuild_base = %s\n' "$$D/build" > "$$D/build.cfg" && \
	DIST_EXTRA_CONFIG="$$D/build.cfg" $(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$D" .
NOTEBOOKS = mkdir "$$D/notebooks" && cp $(or $(NAME:%=book/%.ipynb),book/*.ipynb) "$$D/notebooks" && touch "$$D/notebooks/pytest.ini" && cd "$$D/notebooks" && \
	$(abspath $(PY)) -m pytest --nbmake --nbmake-timeout=900 -n $(WORKERS)

.PHONY: book page run slides exercises pdf results test test-book test-colab test-lowest test-newest lint links address env assets clean

env: $(READY)

$(READY):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; name one with make PYTHON=...')"
	[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	rm -f $(VENV)/.ready-*
	touch $@

assets: $(READY)
	@$(PY) book/_ext/assets.py

# -W forgets the warnings of a page it does not build again, so pages are built afresh; what the chapters computed stays cached
book: $(READY) assets
	rm -rf _build/html _build/.doctrees
	$(VENV)/bin/jupyter-book build . -W -n --keep-going
	@echo
	@echo "The book is at  $(CURDIR)/_build/html/index.html"
	@echo "           URL  file://$(CURDIR)/_build/html/index.html"

# one chapter, run from top to bottom, as a page:  make run NAME=noising
run: $(READY)
	@[ -f "book/$(NAME).ipynb" ] || { echo "no chapter '$(NAME)': make run NAME=noising, say"; exit 2; }
	$(VENV)/bin/jupyter nbconvert --execute --to html --output-dir _build/run book/$(NAME).ipynb

# the stored results whose weights have changed:  make results [LIST=1] [ONLY="skip fewer"] [DATA=FOLDER] [YOUNG=FILE] [RUN=FOLDER]
results: $(READY)
	$(PY) book/_compute/results.py $(if $(LIST),--list) $(if $(ONLY),--only $(ONLY)) --data "$(DATA)" --young "$(YOUNG)" --run "$(RUN)"

# one chapter, executed and built as its page of the book and nothing else, in under a minute:  make page NAME=noising
page: $(READY) assets
	@$(PY) book/_ext/one_page.py $(NAME)

# for lecturers: decks, and notebooks of exercises without and with solutions; what the book has run is not run again. For some
# chapters only:  make slides NAME="noising denoising"
slides: $(READY)
	@$(PY) book/_ext/slides.py $(NAME)

exercises: $(READY)
	@$(PY) book/_ext/handouts.py $(NAME)

# the whole book on paper, printed from the pages of `make book` (Chromium must be installed)
pdf: $(READY)
	@$(PY) book/_ext/paper.py $(NAME)

# The notebooks run from an empty folder with nothing but the installed package; what they put out, `make book` need not run again.
test: $(READY)
	MPLBACKEND=agg $(PY) -m pytest tests -n $(WORKERS)
	$(WHEEL) && $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target "$$D/package" "$$D"/*.whl && \
	(export PYTHONPATH="$$D/package" && $(NOTEBOOKS) --nbmake-kernel=python3 --overwrite .) && \
	$(PY) book/_ext/outputs.py "$$D/notebooks" "$$D/package"

# every notebook, or those named, and three sliders in a browser, with Colab's versions of all but torch and Python
test-colab: $(READY)
	$(WHEEL) && $(PY) tests/envs/colab.py make .venv-colab "$$D"/*.whl && \
	export PYTHONPATH= JUPYTER_PATH="$(CURDIR)/.venv-colab/share/jupyter" && $(NOTEBOOKS) --nbmake-kernel=colab .
	$(PY) -m pytest tests/colab

# the unit tests with the oldest versions that pyproject.toml promises (a download of 3 GB); warnings of theirs are no errors, and
# test_benchmark.py is left out: how fast old versions are promises nothing; and test_lectures.py, which tests the book's own tools
test-lowest: OLD = .venv-lowest/bin
test-lowest:
	rm -rf .venv-lowest && $(PYTHON) -m venv .venv-lowest
	$(OLD)/python -m pip install --quiet --disable-pip-version-check $$(grep -o '^uv==[^ ]*' tests/envs/lowest.txt)
	$(OLD)/uv pip install --python $(OLD)/python --resolution lowest-direct -r pyproject.toml -r tests/envs/lowest.txt
	$(OLD)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(OLD)/python -m pytest tests --ignore=tests/test_benchmark.py --ignore=tests/test_lectures.py -n $(WORKERS) -W default

# tests and notebooks with the newest versions of everything (Jupyter Book 1 excepted), to hear of what changes before readers do
test-newest: NEW = .venv-newest/bin
test-newest:
	rm -rf .venv-newest && $(PYTHON) -m venv .venv-newest
	sed -E 's/^jupyter-book==[^ ]+/jupyter-book<2/; s/==[^ ]+//' requirements.txt > .venv-newest/requirements.txt
	$(NEW)/python -m pip install --quiet --disable-pip-version-check -r .venv-newest/requirements.txt
	$(NEW)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(NEW)/python -m pytest tests --ignore=tests/test_benchmark.py -n $(WORKERS) -W default
	$(NEW)/python -m pytest --nbmake --nbmake-kernel=python3 -n $(WORKERS) -W default book

# the built book in a real browser (Chromium must be installed)
test-book: book
	$(PY) -m pytest tests/book -n $(WORKERS) --dist loadgroup -m "not alone"
	$(PY) -m pytest tests/book -m alone

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell

# every outside link of the book (needs the network)
links: $(READY)
	$(VENV)/bin/jupyter-book build . --builder linkcheck

# the project's address, in every place where it stands:  make address URL=https://github.com/OWNER/NAME
address:
	$(PYTHON) book/_ext/address.py $(URL)

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
