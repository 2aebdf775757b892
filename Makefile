.DEFAULT_GOAL := help
PY := .venv/bin/python
.PHONY: e2e-kube help serve setup setup-dev vllm test check format lint docs results lock demo e2e-lora e2e-ray e2e-vllm bench-controller bench-decide bench-disaggregation bench-gateway bench-routing bench-routing-real bench-simulator bench-replicas bench-simulator-http bench-tokens

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: setup ## Install what serving needs, then a gateway over four simulated engines on 127.0.0.1:8080
	@exec $(PY) -m headrace.cli up

setup: .venv/.base ## Virtual environment with the locked run-time dependencies
setup-dev: .venv/.dev ## The same, with what the tests and checks need

.venv/bin/uv:
	@scripts/make-venv

.venv/.base: requirements/base.lock .venv/bin/uv
	@test -e .venv/.dev || VIRTUAL_ENV=.venv .venv/bin/uv pip install -q --require-hashes -r $<
	@touch $@

.venv/.dev: requirements/dev.lock .venv/bin/uv
	@VIRTUAL_ENV=.venv .venv/bin/uv pip install -q --require-hashes -r $<
	@touch $@ .venv/.base

test: setup-dev ## Every test that this machine can run without an engine of its own
	@$(PY) -m pytest -q

check: setup-dev lint ## Everything a change must pass before it lands (under 90 s)
	@$(PY) -m pytest -q -n 2 tests/unit tests/property tests/golden tests/sim

lint: setup-dev ## Format, ruff, mypy strict, import contracts
	@$(PY) -m ruff format --check -q . && $(PY) -m ruff check -q . && $(PY) -m mypy
	@.venv/bin/lint-imports --no-cache >/dev/null || .venv/bin/lint-imports --no-cache

format: setup-dev ## Rewrite the code in the house format
	@$(PY) -m ruff format -q . && $(PY) -m ruff check -q --fix .

bench-controller: setup-dev ## 500 services of 5,000 pods: how fast the controller acts, what it costs (10 minutes)
	@tests/kube/install-tools >/dev/null
	@$(PY) -m bench.controller

bench-decide: setup-dev ## What a routing decision costs by endpoints and prompt, and the index
	@$(PY) -m bench.decide

bench-disaggregation: setup-dev ## When it pays to split requests between engines, in the twin (6 minutes)
	@$(PY) -m bench.disaggregation

bench-gateway: setup-dev ## CPU, latency and memory beside smg, vllm-router and a bare relay
	@scripts/install-system wrk gcc
	@$(PY) -m bench.gateway

bench-routing: setup-dev ## The router beside every rival, in the twin, on public traces (resumes where it was)
	@$(PY) -m bench.routing

bench-routing-real: setup-dev ## The gateway, smg and vllm-router over HTTP and the same simulated engines
	@$(PY) -m bench.routing_real

bench-replicas: setup-dev ## Several gateway replicas beside one, in the twin; and over a real Redis
	@scripts/install-system redis-server
	@$(PY) -m bench.replicas

bench-simulator-http: setup-dev ## What a streamed chunk costs the simulated engine
	@$(PY) -m bench.simulator_http

bench-simulator: setup-dev ## Errors of the simulated engine against real vLLM logs, and its speed
	@$(PY) -m bench.simulator

bench-tokens: setup-dev ## What it costs to know a prompt's tokens and block hashes
	@$(PY) -m bench.tokens

results: setup ## Every goal of every benchmark and end-to-end run, as one table
	@$(PY) -m bench.results

docs: setup-dev ## Write what is generated: pages of settings and metrics, the chart's schema, manifests
	@$(PY) scripts/write-docs && $(PY) scripts/write-chart

lock: setup-dev ## Resolve the dependencies again and write the locks
	@scripts/lock

demo: setup-dev ## Ten minutes of a production trace through a live fleet, and an hour of it in the twin
	@$(PY) -m bench.demo

e2e-kube: setup-dev ## A real Kubernetes of this machine's own, or KUBECONFIG's (builds it once: 4 minutes)
	@test -n "$$KUBECONFIG" || { tests/kube/install-tools >/dev/null && scripts/install-vllm; } \
	    || echo 'no cluster, or no vLLM in it, can be made here: its tests will be skipped' >&2
	@$(PY) -m pytest -q -m kube tests

vllm: setup-dev
	@scripts/install-vllm || echo 'vLLM could not be installed: its tests will be skipped' >&2

e2e-ray: setup-dev vllm ## A Ray cluster of several nodes: placement, recovery, adoption, one real vLLM
	@$(PY) -m pytest -q -m ray tests/e2e/ray

e2e-lora: setup-dev vllm ## Adapters on two real vLLM workers, and a thousand of them in the twin
	@$(PY) -m pytest -q -m vllm tests/e2e/lora

e2e-vllm: setup-dev vllm ## Two real vLLM workers behind the gateway, and the engine contract (installs vLLM: 6 GB)
	@$(PY) -m pytest -q -m vllm tests/e2e/vllm tests/contract
