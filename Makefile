# Everything is installed below this folder: uv in .uv (unless there is one already), packages in .venv.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
UV := $(or $(shell command -v uv),.uv/bin/uv)
INSTALLED := .venv/installed-$(VERSION)
TRITON := .triton/installed-$(VERSION)
DOCS := .docs/installed-$(VERSION)
NOTEBOOK := .notebook/installed-$(VERSION)
LOADERS := $(patsubst tests/loaders/requirements-%.txt,.loaders/%/installed-$(VERSION),$(wildcard tests/loaders/requirements-*.txt))

HERE := $(or $(NARUTO_HOME),var)
PROCESSES ?= 2
# In a home of one run, as CI's are, the beginning of its year is enough of its id.
RUN ?= 20
MAIN ?= main-var

.DEFAULT_GOAL := help
.PHONY: docs notebook bench-host-memory image-try miniature keep secrets audit release triton service bench-service bench-faults bench-dashboard bench-score bench-rates bench-commands bench-ladder bench-styles bench-growth bench-scale help install demo test test-gpu test-loaders check dashboard up down mini-base bench-train bench-generate bench-sdxl

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## install what uv.lock names into .venv (the other targets do it by themselves)

demo: install  ## run the whole job on the miniature SDXL: ingest, train, fuse, generate, score
	.venv/bin/naruto run --recipe mini

miniature: demo  ## the demo, and what CI shows of it in ./miniature: report, contact sheet, scores (RUN=... of several)
	mkdir -p miniature
	.venv/bin/naruto report $(RUN) -o miniature/report.html
	.venv/bin/naruto scores $(RUN) -o miniature/scores.csv
	cp "$(HERE)"/runs/$(RUN)*/contact-sheet.png miniature/

keep: install  ## copy to MAIN=main-var what `naruto compare main-var//RUN RUN` needs: no pictures, no weights
	mkdir -p "$(MAIN)/cache"
	rm -rf "$(MAIN)"/naruto.db* "$(MAIN)/datasets" "$(MAIN)"/cache/embeddings.db*
	cp "$(HERE)"/naruto.db* "$(MAIN)/"
	cp -R "$(HERE)/datasets" "$(MAIN)/"
	cp "$(HERE)"/cache/embeddings.db* "$(MAIN)/cache/"

# A process for each of two cores: each more imports all libraries once more. One thread each: two take longer.
# Compiled tests are kept, whatever the environment says: two processes and the programs that they start read them.
test: install $(TRITON)  ## run all tests
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 .venv/bin/pytest -n $(PROCESSES) --dist loadfile

test-loaders: install $(LOADERS)  ## load what is exported with old and new libraries: builds .loaders, then those tests alone
	NARUTO_TEST_ALL_COMBINATIONS=1 OMP_WAIT_POLICY=passive .venv/bin/pytest -n 2 --dist loadfile tests/loaders tests/flows/test_exported_weights.py

test-gpu: install  ## on a CUDA GPU: the miniature in fp16 through training, drawing, scores; minutes, else skipped
	.venv/bin/pytest tests/gpu

check: install  ## lint, formatting, types, import contracts
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright
	.venv/bin/lint-imports

docs: install $(DOCS)  ## write the reference pages anew and build the manual into ./site; a broken link fails
	.venv/bin/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --strict --quiet

notebook: install $(NOTEBOOK)  ## run docs/colab.ipynb on the miniature, a few steps, in a new folder
	.notebook/bin/python tests/run_notebook.py docs/colab.ipynb

secrets: install  ## look for secrets in every file, and in every line that the history ever added
	.venv/bin/pre-commit run detect-secrets --all-files
	git log --all --patch --no-color --unified=0 --format= -- . ':!uv.lock' >.venv/history.txt
	.venv/bin/pre-commit run detect-secrets --files .venv/history.txt

audit: install  ## look for known vulnerabilities of what uv.lock names
	$(UV) export --quiet --locked --all-extras --all-groups --no-emit-project --output-file .venv/requirements.txt
	$(UV) tool run --no-python-downloads pip-audit@2.10.1 --strict --disable-pip --require-hashes --requirement .venv/requirements.txt

release: install  ## wheel, source, checksums and notes of TAG=v1.2.3 in ./dist, if version and CHANGELOG say so
	.venv/bin/python .github/release.py >.venv/notes.md
	rm -rf dist
	$(UV) build --quiet --no-python-downloads --out-dir dist
	cp .venv/notes.md dist/NOTES.md
	cd dist && sha256sum *.whl *.tar.gz >SHA256SUMS

dashboard: install  ## open the dashboard on the runs of this machine; EXAMPLE=1 adds a marked example campaign
	$(if $(EXAMPLE),.venv/bin/python -m dashboard.example)
	.venv/bin/streamlit run dashboard/server.py --server.address 127.0.0.1 --server.showEmailPrompt false --browser.gatherUsageStats false

up: install  ## start Prefect server, worker and deployments on this machine (again: nothing changes)
	@.venv/bin/python -m deployments.prefect.local up

down: install  ## stop what `make up` started
	@.venv/bin/python -m deployments.prefect.local down

mini-base: install  ## pretrain the miniature SDXL and its judge again (hours on a CPU; resumable; REAL=... real drawings to measure the VAE with)
	.venv/bin/python -m flows.pretrain_mini $(if $(REAL),--real "$(REAL)")

bench-train: install  ## steps/s of training against a plain PEFT loop (SCRIPT=... and diffusers' script); ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_train $(if $(SCRIPT),"$(SCRIPT)")

bench-growth: install  ## what 10 and 100 times the pictures cost a training; ends with a line of JSON
	.venv/bin/python -m tests.benchmarks.bench_growth

bench-scale: install  ## a 3 x 3 sweep against nine runs, drawing by 1 and 2 workers, a shard, rows and heartbeats; ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_scale

bench-host-memory: install  ## host memory of the full-size model in half precision, random weights (14 GB of disk); ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_host_memory

bench-generate: install  ## pictures/s of the painter against the plain pipe(prompt) loop; ends with a line of JSON
	.venv/bin/python -m tests.benchmarks.bench_generate

bench-score: install  ## whole processes: our scoring, cold and warm, against torch-fidelity; ends with a line of JSON
	.venv/bin/python -m tests.benchmarks.bench_score

bench-rates: install  ## how often intervals, verdicts and forecasts are right, by simulation; ends with a line of JSON
	.venv/bin/python -m tests.benchmarks.bench_rates

bench-commands: install  ## scores, compare, rescore and report of a scored run, whole processes: RUN=... of NARUTO_HOME; ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_commands "$(RUN)"

bench-ladder: install  ## which metric fails which made-up generator; ends with a line of JSON
	.venv/bin/python -m tests.benchmarks.bench_ladder

bench-styles: install  ## what the recipe mini learns of sets of real drawings: FOLDERS="A B" of captioned pictures; ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_styles $(FOLDERS)

bench-faults: install  ## flipped bits, kills, full disks, moved clocks, locked databases on a small run (ONLY="disk clock"); ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_faults $(ONLY)

bench-dashboard: install  ## pages and votes at 1,000 runs, 100,000 pictures, 1,000,000 votes; ends with JSON
	STREAMLIT_LOGGER_LEVEL=error .venv/bin/python -m tests.benchmarks.bench_dashboard

service: install  ## serve the runs of this machine over HTTP, for any client of OpenAI's images API
	.venv/bin/naruto-service serve

bench-service: install  ## the HTTP service against the bare painter and the plain loop, 1,000 requests and attacks; ends with JSON
	.venv/bin/python -m tests.benchmarks.bench_service

image-try: install  ## build the images without Docker and try them (root; buildah and debootstrap from apt; half an hour, 30 GB)
	.venv/bin/python -m deployments.images.try_image

triton: install $(TRITON)  ## put NVIDIA Triton's server into .triton, for its test and for python -m deployments.triton

bench-sdxl: install  ## full-size SDXL of random weights: speed and memory on a GPU; on a CPU two steps and the files
	.venv/bin/python -m tests.benchmarks.gpu_sdxl

# Compiled once here, not by every process: where PYTHONDONTWRITEBYTECODE is set, a start costs 7 seconds otherwise.
# Only what is imported: all 28,000 files of the libraries take a minute longer.
TRAINING := flows.train_naruto, deployments.service.app, diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl, open_clip, torchmetrics
PAGES := streamlit.web.cli, streamlit.testing.v1, altair, pandas, prefect.cli, prefect.server.api.server
$(INSTALLED): pyproject.toml uv.lock | $(UV)
	@case "$(VERSION)" in 3.11|3.12|3.13) ;; *) \
	  echo "error: $(PYTHON) is Python '$(VERSION)', but 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." >&2; exit 1;; esac
	$(UV) sync --locked --no-python-downloads --python $(PYTHON)
	@export PYTHONDONTWRITEBYTECODE=; .venv/bin/python -c "import $(PAGES)" & \
	  PYTHONDONTWRITEBYTECODE= .venv/bin/python -c "import $(TRAINING)" && wait $$!
	@touch $@

# An environment beside .venv: its python backend needs an older numpy, and sees the rest of .venv through a .pth file.
# Where there is none for this machine, its test says so and is skipped.
$(TRITON): deployments/triton/requirements.txt $(INSTALLED)
	@$(UV) venv --quiet --clear --no-python-downloads --python .venv/bin/python .triton \
	  && $(UV) pip install --quiet --python .triton/bin/python --no-deps --require-hashes --only-binary :all: -r $< \
	  && echo ../../../../.venv/lib/python$(VERSION)/site-packages >.triton/lib/python$(VERSION)/site-packages/project.pth \
	  && touch $@ || echo "NVIDIA Triton's server could not be installed: its test will be skipped." >&2

# The manual's tools: an environment of its own, because nothing else needs them.
$(DOCS): pyproject.toml uv.lock $(INSTALLED)
	UV_PROJECT_ENVIRONMENT=.docs $(UV) sync --locked --only-group docs --no-python-downloads --python $(PYTHON)
	@touch $@

# What runs a notebook, as Colab does: its Python is not that of .venv.
$(NOTEBOOK): pyproject.toml uv.lock $(INSTALLED)
	UV_PROJECT_ENVIRONMENT=.notebook $(UV) sync --locked --only-group notebook --no-python-downloads --python $(PYTHON)
	@touch $@

# Environments beside .venv whose libraries load what is exported; they see the PyTorch of .venv through a .pth file.
.loaders/%/installed-$(VERSION): tests/loaders/requirements-%.txt $(INSTALLED)
	$(UV) venv --quiet --clear --no-python-downloads --python .venv/bin/python .loaders/$*
	$(UV) pip install --quiet --python .loaders/$*/bin/python --no-deps --require-hashes --only-binary :all: -r $<
	echo ../../../../../.venv/lib/python$(VERSION)/site-packages >.loaders/$*/lib/python$(VERSION)/site-packages/project.pth
	touch $@

.uv/bin/uv:
	@$(PYTHON) -m venv .uv || { echo "error: $(PYTHON) cannot make virtual environments: install its venv package, or uv." >&2; exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check uv
