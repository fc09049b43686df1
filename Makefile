# make setup | demo | test | docs | test-unit | lint | types | sanity | collection | test-lab |
# test-matrix | test-wheel | molecule | fresh | flaky | hostile | bench-* | clean
SHELL := /bin/sh
VENV ?= .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DS4_VENV := $(VENV)
# Ansible takes no configuration from a world-writable checkout unless it is named.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

BENCHES := bench-converge bench-lab bench-scale bench-prefetch bench-tunnel bench-upgrade

.PHONY: setup demo test docs test-setup lint types sanity collection test-unit test-wheel test-lab test-matrix molecule fresh flaky hostile bench $(BENCHES) clean
.DEFAULT_GOAL := help
# Everything wants what setup makes, and a measurement wants the machine for itself.
.NOTPARALLEL:

.PHONY: help
help:
	@echo 'make setup            prepare this machine: system packages, .venv from pinned requirements'
	@echo 'make demo             from bare simulated Macs to an answered prompt'
	@echo 'make test             all checks; its parts: test-setup lint types sanity test-unit test-matrix test-wheel molecule fresh test-lab'
	@echo 'make fresh            make demo on a minimal Debian of another release; RELEASE=trixie COMMAND="make test"'
	@echo 'make hostile          every root program while the service accounts are hostile: 3 seeds of 200 tries'
	@echo 'make flaky            the lab tests ten times, and which of them fail; DS4_FLAKY_RUNS=3'
	@echo 'make docs             docs/ as a site: .docs/index.html; a link that leads nowhere stops it'
	@echo 'make sanity           ansible-test sanity on the collection; the first run fetches what it pins'
	@echo 'make collection       the collection ds4.fleet as an archive, from the files that git knows: .collection/'
	@echo 'make bench-converge   seconds and ssh channels of a run of site.yml, in the lab'
	@echo 'make bench-lab        what a lab costs, and how honest its lines are'
	@echo 'make bench-scale      what 500 Macs cost the controller, beside pyinfra'
	@echo 'make bench-prefetch      a model to all Macs of a region, beside other ways'
	@echo 'make bench-tunnel     tunnels beside ssh -L and others'
	@echo 'make bench-upgrade    seconds without a server during an upgrade'
	@echo 'make bench            all of these, one after the other'
	@echo 'make clean            take the lab down and remove every .venv'

setup:
	@scripts/setup

demo: setup
	@python -m ds4fleet.cli.demo

test-setup:
	@scripts/setup --test

test: test-setup
	@scripts/check all

lint:
	@scripts/check lint

docs: test-setup
	@scripts/check docs
	@echo 'Open .docs/index.html'

types:
	@scripts/check types

sanity: test-setup
	@scripts/check sanity

collection: setup
	@scripts/collection .collection

test-unit:
	@scripts/check unit

test-matrix:
	@scripts/check matrix

molecule:
	@scripts/check molecule

# The Debian that this machine is not, or RELEASE; make demo, or COMMAND.
fresh: test-setup
	@if [ -n "$(RELEASE)" ]; then scripts/fresh $(RELEASE) $(COMMAND); else scripts/check fresh $(COMMAND); fi

test-wheel:
	@scripts/check wheel

test-lab:
	@scripts/check lab

hostile: test-setup
	@scripts/check hostile

flaky: test-setup
	@scripts/flaky $(ARGS)

# All of them, one after the other: about half an hour. ARGS="--json" and the like go to the one that is named.
bench: $(BENCHES)

$(BENCHES): setup
	@scripts/bench $(@:bench-%=%) $(ARGS)

clean:
	@if [ ! -d .lab ]; then :; elif [ "$$(id -u)" = 0 ]; then fab lab down; else sudo "$$(command -v fab)" lab down; fi
	@rm -rf $(VENV) .venv-bench .venv-3.* .venv-modules .mypy_cache .ruff_cache .pytest_cache
