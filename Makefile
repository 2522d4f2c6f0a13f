# Every command of the project. Each target works as the first one in a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
DATA ?= data
SERVICES ?=
T_GIVEN := $(T)
T ?= tests/unit tests/contract tests/simulation tests/integration tests/e2e

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(READY): requirements.lock .ci/venv
	@PYTHON=$(PYTHON) .ci/venv .venv requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

install: $(READY)  ## make .venv from the exact lock

run: $(READY)  ## start a cluster on this machine, or one again as it was made (NODES=3 BASE_PORT=8001 DATA=data)
	@export ACORDO_ETCD=$${ACORDO_ETCD-true}; exec $(PY) -m cluster up $(if $(NODES),--nodes $(NODES)) $(if $(BASE_PORT),--base-port $(BASE_PORT)) --data $(DATA)

demo: $(READY)  ## load the Python standard library's source, kill the leader half-way, verify every byte
	@$(PY) -m cluster.local.demo

test: $(READY)  ## run every test ring in order (T=path for a part; SKIP_SERVICES=1: leave out missing servers)
	$(if $(SKIP_SERVICES),,@$(PY) -m cluster.services.install $(SERVICES))
	$(PY) -m pytest $(T)

test-again: $(READY)  ## run the tests that failed in the last run, and nothing else
	$(PY) -m pytest --last-failed --last-failed-no-failures none

check: $(READY)  ## ruff, mypy strict, import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy .
	.venv/bin/lint-imports --no-logo

sim: $(READY)  ## simulate seeds (SEEDS=500 SEED_FROM=1; MINUTES=8: fresh ones of this commit) or replay one (SEED=7)
	$(PY) -m tests.simulation $(if $(SEED),--seed $(SEED),$(if $(MINUTES),--minutes $(MINUTES) --from-commit,\
		--seeds $(or $(SEEDS),500) --seed-from $(or $(SEED_FROM),1)))

sim-copies: $(READY)  ## interrupt a copy of another member's state at each of its steps (STRIDE=7: some of them)
	$(PY) -m tests.simulation.copy_sweep --stride $(or $(STRIDE),1)

sim-teeth: $(READY)  ## show that the simulation finds every planted fault (QUICK=1: five of them)
	$(PY) -m tests.simulation.planted_cases $(if $(QUICK),--quick)

model:  ## explore the protocols state by state, with one rule away at a time (QUICK=1: some scenarios; 10 minutes else)
	$(PYTHON) docs/model/rejoin_votes.py
	$(if $(QUICK),,$(PYTHON) docs/model/lease_model.py && $(PYTHON) docs/model/lease_model.py --mutants)
	$(PYTHON) docs/model/acordo_model.py $(if $(QUICK),--scenario window)
	$(PYTHON) docs/model/replicated_model.py $(if $(QUICK),--scenario write)
	$(if $(QUICK),,$(PYTHON) docs/model/acordo_model.py --mutants && $(PYTHON) docs/model/replicated_model.py --mutants)

chaos: $(READY)  ## disturb a local cluster and check its history (ARGS=... for chaos run)
	$(PY) -m chaos run $(or $(ARGS),--workload register,append,watch --nemesis kill,partition,pause --time 60)

chaos-quick: $(READY)  ## the same for 90 seconds, as CI runs it; a weak run (exit code 2) is repeated once
	@run="$(PY) -m chaos run --workload register,append,watch --nemesis kill,partition,pause --time 90"; \
	$$run || { [ $$? = 2 ] && $$run; }

chaos-tooz: $(READY)  ## locks and groups of tooz, leases of etcd's gateway, under faults (ARGS=... for chaos run)
	$(PY) -c "from tests.peers.suites import install; install()"
	CHAOS_TOOZ_PYTHON=build/peers/bin/python $(PY) -m chaos run --workload etcd $(or $(ARGS),--nemesis kill,partition,pause,clock --time 120)

chaos-soak: $(READY)  ## 200,000 operations under 200 faults, of every kind; takes 20 minutes and more
	$(PY) -m chaos run --workload all --nemesis kill,pause,restart,partition,weather,clock,disk,members,power,own-file,own-disk \
		--time 1200 --operations 200000 --faults 200 --clients 4 $(ARGS)

soak: $(READY)  ## HOURS=1 of steady load and faults: what grows in the last half; plot in build/soak
	$(PY) -m bench.soak --hours $(or $(HOURS),1)

failover: $(READY)  ## kill the leader 50 times: how long is no write acknowledged (KILLS=50)
	$(PY) -m chaos failover --kills $(or $(KILLS),50)

chaos-teeth: $(READY)  ## show that the checkers find every planted product bug (QUICK=1: two of them)
	$(PY) -m chaos teeth --node-command "$(PY) -m tests.bugs {bug}" $(if $(QUICK),--quick)

oracle: $(READY)  ## hold the register checker against 100,000 brute-forced histories, and measure it
	$(PY) -m tests.unit.chaos.oracle --histories $(or $(HISTORIES),100000)
	$(PY) -m tests.unit.chaos.speed

bench: bench-core bench-raft bench-backends  ## run every benchmark

bench-core: $(READY)  ## measure a local cluster beside a bare handler
	$(PY) -m bench.core

bench-raft: $(READY)  ## measure Raft alone, with and without fsync, beside the stock library
	$(PY) -m bench.raft
	$(PY) -m tests.simulation.minute

bench-backends: $(READY)  ## measure the real back ends
	$(PY) -m bench.backends

bench-peers: $(READY)  ## measure a local cluster beside etcd's HTTP gateway
	$(PY) -m bench.peers

bench-door: $(READY)  ## measure a local cluster through its door for etcd's clients, beside etcd
	$(PY) -m bench.door

bench-regress: $(READY)  ## measure CPU for each request beside an earlier commit (AGAINST=v0.2.0; the last tag)
	$(PY) -m bench.regress $(if $(AGAINST),--against $(AGAINST))

bench-way: $(READY)  ## show where one write's time goes, and the CPU of many
	ACORDO_STORE=replicated $(PY) -m bench.way

bench-state: $(READY)  ## measure start, memory and a member's replacement with much in the store
	$(PY) -m bench.state

bench-leases: $(READY)  ## measure what it does to writes when 10,000 leases end at once
	$(PY) -m bench.lease_ends

docs: $(READY)  ## make docs/ a site in build/docs: a link or an anchor that leads nowhere fails
	@rm -rf build/docs
	$(PY) -m sphinx -q -W --keep-going -j auto -c docs/site -b html -d build/docs-read . build/docs
	$(PY) -m docs.site.checks build/docs

pictures: $(READY)  ## draw the pictures of docs/, and take those of the page while a leader dies (Chromium)
	$(PY) -m docs.site.pictures
	$(PY) -m docs.site.screens

evidence: $(READY)  ## run the published hazards of the Raft library against our classes
	$(PY) -m tests.evidence

test-stack: $(READY)  ## bring the containers up, smoke-test, disturb, scale, take down
	$(PY) -m pytest -rs tests/docker

test-hosts: $(READY)  ## do what docs/deploy.md says on hosts in network namespaces, and replace each of them (root)
	$(PY) -m pytest -rs tests/hosts

test-bare: $(READY)  ## do what the README says in a container that has nothing: run, demo, test (T=path for a part)
	$(PY) -m tests.docker.bare $(T_GIVEN)

test-peers: $(READY)  ## run the suites that others wrote for etcd (KINDS=shared,replicated,nginx,etcd: on which servers)
	$(PY) -m tests.peers.suites $(if $(KINDS),--kinds $(KINDS))

test-patroni: $(READY)  ## run PostgreSQL under Patroni with its lock in Acordo, and in etcd (QUICK=1: Acordo alone, 3 minutes)
	$(PY) -m tests.patroni $(if $(QUICK),--stores acordo --patroni debian --short)

test-failover: $(READY)  ## fail the primary of a shared store under Patroni over, again and again (QUICK=1: two of the ways; LOCK=etcd)
	$(PY) -m tests.failover $(if $(LOCK),--lock $(LOCK)) $(if $(QUICK),--short --patroni debian)

test-upgrade: $(READY)  ## roll a cluster of the released version to this one under load, and back (QUICK=1: the replicated store alone, 90 seconds)
	$(PY) -m tests.upgrade $(if $(QUICK),--kinds replicated --short)

fuzz: $(READY)  ## fuzz every parser by coverage, for MINUTES=10 each (T=raft_frames,http: some of them); faults in build/fuzz/faults
	$(PY) -m tests.fuzz --minutes $(or $(MINUTES),10) $(if $(T),--targets $(T))

flaky: $(READY)  ## run what touches time, signals or processes N=50 times with both cores busy (T=path for a part)
	$(PY) -m tests.flaky --rounds $(or $(N),50) $(T_GIVEN)

chart: $(READY)  ## make the Helm chart from deploy/kubernetes
	$(PY) -m deploy.chart

cloud-costs: $(READY)  ## reckon the tables of CLOUD/README from its prices and measurements, and draw its networks
	$(PY) -m CLOUD.costs --write
	$(PY) -m CLOUD.capacity --write
	$(PY) -m CLOUD.network
	$(PY) -m CLOUD.capacity

images: $(READY)  ## build every image from the distribution's packages alone
	$(PY) -m deploy.images

sync: $(READY)  ## make the synchronous client from the asynchronous one
	$(PY) .ci/sync.py

build/audit/.ready: requirements-audit.lock
	@PYTHON=$(PYTHON) .ci/venv build/audit requirements-audit.lock
	@touch $@

sbom: build/audit/.ready  ## write what a node is made of to out/sbom.json (CycloneDX), each file by its hash
	@mkdir -p out
	@build/audit/bin/python -W ignore -m cyclonedx_py requirements --of JSON --sv 1.6 --output-reproducible \
		--pyproject pyproject.toml -o out/sbom.json requirements-run.lock
	@echo out/sbom.json

audit: build/audit/.ready  ## ask for known vulnerabilities of everything pinned; exit code 69: its service could not be asked
	@build/audit/bin/python -m deploy.audit requirements.lock requirements-run.lock requirements-audit.lock

lock:  ## pin the newest versions that requirements*.in allow
	@PYTHON=$(PYTHON) .ci/lock

clean:  ## remove what was built (never data/)
	rm -rf .venv out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help docs pictures install run demo test test-again check model sim sim-copies sim-teeth chaos chaos-quick chaos-tooz chaos-soak soak failover chaos-teeth oracle bench bench-core bench-raft bench-backends bench-peers bench-door bench-regress bench-way bench-state bench-leases \
	evidence test-stack test-hosts test-bare test-peers test-patroni test-failover test-upgrade fuzz flaky chart cloud-costs images sync sbom audit lock clean
