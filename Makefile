# Every target runs in a virtual environment that it makes itself; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# Only make's command line sets the variables below: what the environment has under such everyday names as HOST or DATA is
# ignored. A value is exported and the shell puts it in, so that every character arrives as it was typed; only ~/ at its
# start is expanded.
given := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),$(name))))
mark := <start of the value>
typed = $(subst $(mark),,$(subst $(mark)local-dir:~/,local-dir:$(HOME)/,$(subst $(mark)~/,$(HOME)/,$(mark)$(value $(1)))))
$(foreach name,$(given),$(eval override $(name) := $$(call typed,$(name)))$(eval export $(name)))
# the value of a variable of the command line, "" without one
set = $(if $(filter $(1),$(given)),$($(1)))

# A target's variables: <target>.options become flags (LONG_TEXT is --long-text), <target>.argument the argument after them.
# What is not set is left to the programs; `.venv/bin/python -m embed --help` has their defaults.
arguments = $(foreach name,$(filter $($@.options),$(given)),$(if $($(name))$(filter $(name),$(tables)),$(call option,$(name)))) \
	$(if $(call set,$($@.argument)),-- "$$$($@.argument)")
option = $(if $(filter OCR,$(1)),$(if $(filter on,$(OCR)),--ocr,--no-ocr),$(flag)="$$$(1)")
flag = --$(shell echo $(1) | tr A-Z_ a-z-)

vectors := DATA MODEL PRETRAINED FEATURES LONG_TEXT
# remembered with the data; an empty value forgets it
tables := IMAGES COLUMNS LABEL POSITIVE LINKS
aims := OBJECTIVE TARGET_RECALL TARGET_PRECISION
search := TRIALS FOLDS REPEATS JOBS DEVICE SEED CONFIDENCE STUDY STORAGE $(aims)
build := IMAGE PYTHON_IMAGE TORCH_INDEX_URL

export IMAGE := meme-classifier:latest
build_args = $(foreach name,$(filter PYTHON_IMAGE TORCH_INDEX_URL,$(given)),--build-arg $(name)="$$$(name)")

.DEFAULT_GOAL := help
.PHONY: help help-dev install demo data audit embed tune tune-nested finetune report compare bundles runs threshold score use prune export serve \
	reload image push up down engine named bundled image-check test tree test-ray lint bench-embed bench-crash bench-plan bench-memory \
	bench-tune bench-heads bench-large bench-halves bench-finetune bench-serve bench-load bench-ocr bench-near bench-remote bench-store

# The targets under the headings that begin with $(1): two hashes and @ for users, with @@ for developers.
define targets
@awk -F ':.*## ' -v heading='$(1)' '/^##@/ {shown = index($$0, heading) == 1; if (shown) print "\n" substr($$0, length(heading) + 1)} \
	shown && /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
endef

help:
	$(call targets,##@ )
	@echo
	@echo "DATA=<folder> MODEL=<open_clip model> PRETRAINED=<tag or file> choose what embed and tune work on; without them, the demo."
	@echo "make help-dev lists the checks and benchmarks for developers"

help-dev:
	$(call targets,##@@ )

##@ Start
install: $(VENV)/installed ## make .venv and install the pinned packages (other targets do it when needed)

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# what ENGINE=ray and pictures in an object store want besides
$(VENV)/ray-installed: requirements-ray.txt $(VENV)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-ray.txt
	touch $@

demo: install ## the whole path on the data that ship with the project: embed, tune, report, serve, predict
	@$(PY) -m demo

##@ Data and vectors
data.argument := DATA
data: install ## where MultiOFF and Hateful Memes are published; with DATA=<folder>, compare that folder with them
	@$(PY) -m embed data $(arguments)

audit.options := $(tables)
audit.argument := DATA
audit: install ## problems in DATA (missing pictures, copies, labels), as a table and a page
	@$(PY) -m embed audit $(arguments)

embed.options := $(vectors) $(tables) PRECISION DEVICE ENGINE OCR OCR_LANG
embed: install $(if $(filter ray,$(call set,ENGINE)),$(VENV)/ray-installed) ## embed DATA with MODEL into artifacts/vectors (options: docs/embedding.md)
	@$(PY) -m embed $(arguments)

##@ Model
tune.options := $(vectors) $(search) SEEDS PROTOCOL SHIP REVIEW
tune: install ## tune fusion heads on DATA's vectors: TRIALS=200 in all, resumable (options: docs/tuning.md)
	@$(PY) -m head tune $(arguments)

tune-nested.options := $(vectors) $(search)
tune-nested: install ## estimate tune by nested cross-validation; takes five times as long
	@$(PY) -m head nested $(arguments)

finetune.options := BUNDLE BLOCKS TOWERS LORA EPOCHS LEARNING_RATE DEVICE SEED
finetune: install ## fine-tune the last BLOCKS of BUNDLE's encoder (options: docs/finetune.md)
	@$(PY) -m finetune $(arguments)

report.options := MISS ALARM PREVALENCE
report.argument := BUNDLE
report: install ## evaluate BUNDLE on its test memes, once, and write report.html (options: docs/report.md)
	@$(PY) -m report $(arguments)

compare: install ## two bundles side by side: make compare artifacts/bundles/A artifacts/bundles/B
	@$(PY) -m report compare $(foreach bundle,$(filter-out compare,$(MAKECMDGOALS)),'$(bundle)')

bundles.options := FORMAT
bundles: install ## all versions of all bundles: date, data, encoder, threshold, figures, which is in use
	@$(PY) -m head bundles $(arguments)

runs.options := FORMAT
runs: install ## all trainings as a table (FORMAT=markdown|csv|latex), with mean and deviation over seeds
	@$(PY) -m head runs $(arguments)

threshold.options := BUNDLE $(aims) CONFIDENCE REVIEW
threshold: install ## a new version of BUNDLE with another threshold, in seconds: TARGET_RECALL=0.9
	@$(PY) -m head threshold $(arguments)

score.options := $(vectors) BUNDLE OUT
score: install ## the probability of every cached meme of DATA, as OUT=<file>.csv or .parquet; loads no encoder
	@$(PY) -m head score $(arguments)

use.argument := BUNDLE
use: install ## put a version into use, also an older one: BUNDLE=<name>/<version>
	@$(PY) -m head use $(arguments)

prune.options := KEEP
prune: install ## remove all but the newest KEEP=5 versions of each bundle, never those in use
	@$(PY) -m head prune $(arguments)

##@ Serving
export.options := BUNDLE
export: install ## write BUNDLE with its encoder to artifacts/exports, to serve it without a network
	@$(PY) -m api export $(arguments)

serve.options := BUNDLE HOST PORT DEVICE PID_FILE
serve: install ## serve BUNDLE over HTTP on HOST:PORT (default: the version in use)
	@$(PY) -m api serve $(arguments)

reload.options := PID_FILE
reload: install ## let the server that was started with PID_FILE take the version that is now in use
	@$(PY) -m api reload $(arguments)

##@ Container
image.options := $(build)
image: engine ## build the container image IMAGE for CPUs (TORCH_INDEX_URL= for GPUs)
	docker build --target serve $(build_args) --tag "$$IMAGE" .

push.options := $(build)
push: named image ## build and push the image: make push IMAGE=user/name:tag, after docker login
	docker push "$$IMAGE"

# Without BUNDLE on the command line a container serves the bundle that is in its image.
up.options := $(build) BUNDLE PUBLISH KEYS CPUS MEMORY RUN_AS
up: bundled image ## start it on port 8080 of this machine, with the demo's bundle or BUNDLE=<folder from make export>
	@BUNDLE=$(if $(call set,BUNDLE),"$$($(bundle))") docker compose up --detach --no-build --wait --wait-timeout 900 serve
	@echo "http://$${PUBLISH:-127.0.0.1:8080} answers; 'docker compose logs -f serve' shows its requests, 'make down' stops it"

down: engine ## stop it, after it has answered the requests that it has received
	docker compose --profile gpu down

engine:
	@docker info > /dev/null 2>&1 || { echo "error: no container engine answers; 'docker info' says why" >&2; exit 2; }

named:
	@case "$$IMAGE" in */*) ;; *) echo "error: IMAGE=$$IMAGE names no account; make push IMAGE=user/name:tag" >&2; exit 2;; esac

# prints the full path of BUNDLE, which is a folder or the name of a bundle
bundle = for folder in "$$BUNDLE" "artifacts/bundles/$$BUNDLE/latest" "artifacts/bundles/$$BUNDLE"; do \
	test -f "$$folder/config.json" && cd -P "$$folder" && pwd && break; done
bundled:
	@$(if $(call set,BUNDLE),test -n "$$($(bundle))" || { echo "error: $$BUNDLE is no model bundle" >&2; exit 2; },:)

image-check.options := TORCH_INDEX_URL
image-check: install ## build the images without Docker and test them; needs root, buildah, mmdebstrap
	@$(PY) -m container $(if $(filter TORCH_INDEX_URL,$(given)),--torch-index-url="$$TORCH_INDEX_URL")

##@ Development
test: install ## run the tests
	$(PY) -m pytest

##@@ Checks
tree: install ## write the tree of files in docs/architecture.md, from the modules' first sentences
	$(PY) tests/house/tree.py

test-ray: install $(VENV)/ray-installed ## test the embedding job on a Ray cluster of two nodes and with pictures in an object store; minutes
	$(PY) -m pytest tests/ray_cluster.py tests/ray_s3.py

lint: install ## code, types, the Dockerfile, the compose file and the workflow
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/ci.yml

##@@ Benchmarks
bench-embed.options := DATA
bench-embed: install ## memes a second on DATA: open_clip, clip-retrieval, ours, and what the cores allow
	$(PY) -m bench.embed $(arguments)

bench-crash: install ## kill -9 the embedding job 25 times and compare with an undisturbed run
	$(PY) -m bench.crash

bench-plan: install ## how long a run takes that finds 100,000 memes cached
	$(PY) -m bench.plan

bench-memory: install ## peak memory for 1,000 and for 10,000 memes
	$(PY) -m bench.memory

bench-near: install ## time and memory of finding the near-copies among 1,000,000 hashes; faiss beside it on fewer
	$(PY) -m bench.near

bench-store: install ## opening a store of 10,000 segments, finding and reading 1,000,000 vectors, an index's bytes a meme
	$(PY) -m bench.store

bench-remote: install ## pictures a second from a server that takes 50 ms a request, beside fsspec and img2dataset
	$(PY) -m bench.remote

bench-tune: install ## trials a second, and what they are worth: a plain PyTorch loop, scikit-learn's perceptron, ours
	$(PY) -m bench.tune

bench-heads: install ## what tuning finds on planted memes with the geometry of CLIP's space, beside who knows the rule
	$(PY) -m bench.heads agreement image text both noise

bench-large: install ## how long, and in how much memory, 100,000 memes are tuned
	$(PY) -m bench.large

bench-halves: install ## what products in bfloat16 cost on this processor, against float32
	$(PY) -m bench.halves

bench-finetune: install ## memes a second that learn: a plain loop over the whole model, ours
	$(PY) -m bench.finetune

bench-serve.options := DATA
bench-serve: install ## requests a second on DATA: plain Flask, LitServe, ours without and with kept vectors
	$(PY) -m bench.serve $(arguments)

bench-load.options := DATA
bench-load: install ## 200 clients for a minute, then SIGTERM: refusals, latency, memory, an orderly end
	$(PY) -m bench.load $(arguments)

bench-ocr.options := DATA
bench-ocr: install ## character error and time of reading DATA's pictures: RapidOCR and tesseract
	$(PY) -m bench.ocr $(arguments)

# What no target of this command takes, and what contradicts itself, is refused before anything is made.
goals := $(or $(MAKECMDGOALS),help)
taken := $(sort $(foreach goal,$(goals),$($(goal).options) $($(goal).argument)))
unknown := $(firstword $(filter-out $(taken) PYTHON VENV SHELL,$(given)))
similar = import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))
ifneq ($(unknown),)
meant := $(shell $(PYTHON) -c '$(similar)' '$(subst ','\'',$(unknown))' $(taken))
$(error make $(goals) takes no $(unknown)$(if $(meant), (did you mean $(meant)?))$(if $(taken),; it takes $(taken)))
endif
aimed := $(strip $(foreach aim,$(aims),$(if $(call set,$(aim)),$(aim))))
ifneq ($(word 2,$(aimed)),)
$(error $(aimed): a threshold has one aim, so give one of them)
endif
ifneq ($(filter-out on off,$(call set,OCR)),)
$(error OCR=$(OCR): expected on or off)
endif
