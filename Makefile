# Every target runs in a virtual environment that it makes itself; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

DATA ?= demo/memes
IMAGES ?=
MODEL ?= local-dir:demo/encoder
PRETRAINED ?=
FEATURES ?= projected
LONG_TEXT ?= truncate
PRECISION ?= auto
DEVICE ?= auto
ENGINE ?= local
TRIALS ?= 200
STUDY ?=
STORAGE ?=
PROTOCOL ?= kfold
FOLDS ?= 5
REPEATS ?= 1
JOBS ?= 0
SEED ?= 0
OBJECTIVE ?= macro-f1
TARGET_RECALL ?=
TARGET_PRECISION ?=
CONFIDENCE ?= 0.8
REVIEW ?=
SHIP ?= best
BUNDLE ?= artifacts/bundles/latest
BLOCKS ?= 2
TOWERS ?= both
LORA ?= 0
LEARNING_RATE ?=
EPOCHS ?= 4
PREVALENCE ?=
MISS ?= 1
ALARM ?= 1
OCR ?=
OCR_LANG ?=
LINKS ?=
COLUMNS ?=
LABEL ?=
POSITIVE ?=
HOST ?= 127.0.0.1
PORT ?= 8080
IMAGE ?= meme-classifier:latest

# whether a variable was given on the command line or in the environment
given = $(filter-out undefined default file,$(origin $(1)))
SOURCE = --data "$(DATA)" $(if $(call given,MODEL),--model "$(MODEL)") --pretrained "$(PRETRAINED)" --features "$(FEATURES)" --long-text "$(LONG_TEXT)"
PICTURES = $(if $(IMAGES),--images "$(IMAGES)") $(if $(LINKS),--links "$(LINKS)") $(if $(COLUMNS),--columns "$(COLUMNS)") \
	$(if $(LABEL),--label "$(LABEL)") $(if $(POSITIVE),--positive "$(POSITIVE)")
TARGETS = $(if $(TARGET_RECALL),--target-recall "$(TARGET_RECALL)") $(if $(TARGET_PRECISION),--target-precision "$(TARGET_PRECISION)")
AIM = $(or $(strip $(TARGETS)),--objective "$(OBJECTIVE)") --confidence "$(CONFIDENCE)"
SEARCH = --trials "$(TRIALS)" --folds "$(FOLDS)" --repeats "$(REPEATS)" --jobs "$(JOBS)" --device "$(DEVICE)" --seed "$(SEED)" $(AIM) \
	$(if $(STUDY),--study "$(STUDY)") $(if $(STORAGE),--storage "$(STORAGE)")
BUILD_ARGS = $(foreach name,PYTHON_IMAGE TORCH_INDEX_URL,$(if $(call given,$(name)),--build-arg $(name)="$($(name))"))
# Without BUNDLE on the command line a container serves the bundle that is in its image.
COMPOSE = IMAGE="$(IMAGE)" BUNDLE="$(if $(call given,BUNDLE),$(abspath $(BUNDLE)))" docker compose

.DEFAULT_GOAL := help
.PHONY: help help-dev install demo data audit embed tune tune-nested finetune report compare export serve image push up down engine named \
	bundled image-check test tree test-ray lint bench-embed bench-crash bench-plan bench-memory bench-tune bench-heads bench-large bench-halves \
	bench-finetune bench-serve bench-load bench-ocr

# The targets under the headings that begin with $(1): two hashes and @ for users, with @@ for developers.
define targets
@awk -F ':.*## ' -v heading='$(1)' '/^##@/ {shown = index($$0, heading) == 1; if (shown) print "\n" substr($$0, length(heading) + 1)} \
	shown && /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
endef

help:
	$(call targets,##@ )
	@echo
	@echo "DATA=<folder> MODEL=<open_clip model> PRETRAINED=<tag or file> choose what embed and tune work on:"
	@echo "now DATA=$(DATA) MODEL=$(MODEL) PRETRAINED=$(PRETRAINED)"
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
	$(PY) -m demo

##@ Data and vectors
data: install ## where MultiOFF and Hateful Memes are published; with DATA=<folder>, compare that folder with them
	$(PY) -m embed data $(if $(call given,DATA),"$(DATA)")

audit: install ## problems in DATA (missing pictures, copies, labels), as a table and a page
	$(PY) -m embed audit "$(DATA)" $(PICTURES)

embed: install $(if $(filter ray,$(ENGINE)),$(VENV)/ray-installed) ## embed DATA with MODEL into artifacts/vectors (options: docs/embedding.md)
	$(PY) -m embed $(SOURCE) $(PICTURES) --precision "$(PRECISION)" --device "$(DEVICE)" --engine "$(ENGINE)" $(if $(OCR),--ocr) $(if $(OCR_LANG),--ocr-lang "$(OCR_LANG)")

##@ Model
tune: install ## tune fusion heads on DATA's vectors: TRIALS=200 in all, resumable (options: docs/tuning.md)
	$(PY) -m head tune $(SOURCE) $(SEARCH) --protocol "$(PROTOCOL)" --ship "$(SHIP)" $(if $(REVIEW),--review "$(REVIEW)")

tune-nested: install ## estimate tune by nested cross-validation; takes five times as long
	$(PY) -m head nested $(SOURCE) $(SEARCH)

finetune: install ## fine-tune the last BLOCKS of BUNDLE's encoder (options: docs/finetune.md)
	$(PY) -m finetune --bundle "$(BUNDLE)" --blocks "$(BLOCKS)" --towers "$(TOWERS)" --lora "$(LORA)" --epochs "$(EPOCHS)" \
		--device "$(DEVICE)" --seed "$(SEED)" $(if $(LEARNING_RATE),--learning-rate "$(LEARNING_RATE)")

report: install ## evaluate BUNDLE on its test memes, once, and write report.html (options: docs/report.md)
	$(PY) -m report "$(BUNDLE)" --miss "$(MISS)" --alarm "$(ALARM)" $(if $(PREVALENCE),--prevalence "$(PREVALENCE)")

compare: install ## two bundles side by side: make compare artifacts/bundles/A artifacts/bundles/B
	@$(PY) -m report compare $(filter-out compare,$(MAKECMDGOALS))

##@ Serving
export: install ## write BUNDLE with its encoder to artifacts/exports, to serve it without a network
	$(PY) -m api export --bundle "$(BUNDLE)"

serve: install ## serve BUNDLE over HTTP on HOST:PORT (default: the bundle tuned last)
	$(PY) -m api serve --bundle "$(BUNDLE)" --host "$(HOST)" --port "$(PORT)" --device "$(DEVICE)"

##@ Container
image: engine ## build the container image IMAGE for CPUs (TORCH_INDEX_URL= for GPUs)
	docker build --target serve $(BUILD_ARGS) --tag "$(IMAGE)" .

push: named image ## build and push the image: make push IMAGE=user/name:tag, after docker login
	docker push "$(IMAGE)"

up: bundled image ## start it on port 8080 of this machine, with the demo's bundle or BUNDLE=<folder from make export>
	$(COMPOSE) up --detach --no-build --wait --wait-timeout 900 serve
	@echo "http://$(or $(PUBLISH),127.0.0.1:8080) answers; 'docker compose logs -f serve' shows its requests, 'make down' stops it"

down: engine ## stop it, after it has answered the requests that it has received
	docker compose --profile gpu down

engine:
	@docker info > /dev/null 2>&1 || { echo "error: no container engine answers; 'docker info' says why" >&2; exit 2; }

named:
	@$(if $(findstring /,$(IMAGE)),:,echo "error: IMAGE=$(IMAGE) names no account; make push IMAGE=user/name:tag" >&2; exit 2)

bundled:
	@$(if $(and $(call given,BUNDLE),$(if $(wildcard $(BUNDLE)/config.json),,no)),echo "error: $(BUNDLE) is no model bundle" >&2; exit 2,:)

image-check: install ## build the images without Docker and test them; needs root, buildah, mmdebstrap
	$(PY) -m container $(if $(call given,TORCH_INDEX_URL),--torch-index-url "$(TORCH_INDEX_URL)")

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
bench-embed: install ## memes a second on DATA: open_clip, clip-retrieval, ours, and what the cores allow
	$(PY) -m bench.embed --data "$(DATA)"

bench-crash: install ## kill -9 the embedding job 25 times and compare with an undisturbed run
	$(PY) -m bench.crash

bench-plan: install ## how long a run takes that finds 100,000 memes cached
	$(PY) -m bench.plan

bench-memory: install ## peak memory for 1,000 and for 10,000 memes
	$(PY) -m bench.memory

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

bench-serve: install ## requests a second on DATA: plain Flask, LitServe, ours without and with kept vectors
	$(PY) -m bench.serve --data "$(DATA)"

bench-load: install ## 200 clients for a minute, then SIGTERM: refusals, latency, memory, an orderly end
	$(PY) -m bench.load --data "$(DATA)"

bench-ocr: install ## character error and time of reading DATA's pictures: RapidOCR and tesseract
	$(PY) -m bench.ocr --data "$(DATA)"
