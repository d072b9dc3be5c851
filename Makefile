# weft: `make demo` shows it, `make test` proves it. Everything else is in the list that `make help` prints.

GO      ?= go
PREFIX  ?= /usr/local
BIN     := bin/weft
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# How long each fuzz target runs: make fuzz FUZZTIME=60s
FUZZTIME ?= 10s
LINT    := $(GO) tool -modfile=tools/go.mod golangci-lint

.PHONY: help build docker-plugin demo test test-nats histories scale bus-storm bus-hostile test-deps test-long lint fuzz bench bench-deps bench-bus bench-bus-deps bench-go soak install uninstall package clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

build: ## build bin/weft: one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/weft

docker-plugin: build ## write bin/docker-plugin: the plugin for Docker's Swarm mode, for docker plugin create (weft docker setup --swarm makes its own)
	rm -rf bin/docker-plugin
	$(BIN) docker plugin bin/docker-plugin

demo: ## three hosts, a cloud that drops multicast, and a chat over it (needs root)
	@./demo/demo.sh

test: test-deps ## every test, race detector on, in random order (needs root, 45 minutes)
	$(GO) test -race -shuffle=on -count=1 -timeout 30m $$($(GO) list ./... | grep -vE '/test(/natsgo)?$$')
	$(GO) test -count=1 -timeout 20m ./test/natsgo # alone: tests of nats.go allow 20 ms for an answer
	$(GO) test -race -shuffle=on -count=1 -timeout 60m ./test # alone: it measures

test-nats: ## the tests of NATS's own Go client, those that need core features, against the listener; a minute
	$(GO) test -count=1 -v ./test/natsgo

test-deps: ## install the Debian packages the tests need and this machine lacks
	@./.ci/deps

histories: ## 10,000 seeded histories of the bus simulator (loss, cuts, pauses, crashes; 1,000 of members that sign) of addresses (older disks too) and of leases; about twenty minutes
	WEFT_LONG=10000 $(GO) test -count=1 -timeout 60m -run '^TestHistories$$' -v ./internal/rmcast
	WEFT_LONG=1000 $(GO) test -count=1 -timeout 60m -run '^TestSignedHistories$$' -v ./internal/rmcast
	WEFT_LONG=10000 $(GO) test -count=1 -timeout 60m -run 'Histories' -v ./internal/ipam ./internal/ring ./internal/lease

scale: ## 1,000 and 10,000 members of a bus in 1, 10 and 100 islands: docs/bus-scale.md (simulated; 1.5 GB, ten minutes)
	WEFT_SCALE=10000 WEFT_SCALE_TABLE=$(CURDIR)/docs/bus-scale.md $(GO) test -count=1 -timeout 60m -run '^TestScale$$' -v ./internal/rmcast

bus-storm: test-deps ## a million messages of a bus to 50 receivers that lose, double and change packets; three minutes and more (needs root)
	WEFT_TEST_LONG=1 $(GO) test -count=1 -timeout 30m -run '^TestBusStorm$$' -v ./test

bus-hostile: test-deps ## what a member of a bus that lies all the time costs 49 others as fast as all go; docs/roadmap.md (needs root, four minutes)
	$(GO) test -tags hostile -count=1 -timeout 30m -run '^TestBusHostileLoad$$' -v ./test

test-long: test-deps ## the same tests, longer: more hosts, more kills, more datagrams
	WEFT_TEST_LONG=1 $(GO) test -race -shuffle=on -count=1 -timeout 60m ./...

lint: test-deps ## formatting, linters, tidy go.mod, layers, and that it builds elsewhere
	$(GO) mod tidy -diff
	$(LINT) run
	$(GO) vet -tags soak ./test/soak
	$(GO) vet -tags hostile ./test
	$(GO) test -count=1 ./internal/arch
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) build ./...
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 $(GO) build ./...
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build ./...

fuzz: ## run every fuzz target for FUZZTIME
	@$(GO) list -f '{{$$p := .}}{{range .TestGoFiles}}{{$$p.ImportPath}} {{$$p.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$$p.ImportPath}} {{$$p.Dir}}/{{.}}{{"\n"}}{{end}}' ./... | \
	while read -r pkg file; do [ -n "$$file" ] || continue; \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) "$$pkg" || exit 1; \
	  done; done

bench: build bench-deps ## compare with kernel VXLAN, wireguard-go and others: docs/benchmarks.md (needs root, an hour; ROUNDS=1: 16 minutes)
	$(GO) build -o bin/bench ./test/bench
	./bin/bench

bench-deps: ## install the peers of bench and its tools, as far as they can be had
	@./.ci/deps bench

bench-bus: bench-bus-deps ## compare the bus with NATS, Redis, ZeroMQ and raw multicast: docs/benchmarks-bus.md (needs root, 20 minutes; ROUNDS=1: 4 minutes)
	$(GO) build -o bin/bench ./test/bench
	./bin/bench bus

bench-bus-deps: ## install the peers of bench-bus, as far as they can be had
	@./.ci/deps bench-bus

bench-go: ## run every Go benchmark, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

soak: build test-deps ## 10^8 packets, with faults: does anything grow or stay behind? docs/soak.md (needs root, 30 to 40 minutes; PACKETS=2e6: a look)
	WEFT_BIN=$(CURDIR)/$(BIN) $(GO) test -tags soak -count=1 -timeout 4h -run '^TestSoak$$' -v ./test/soak

COMPLETIONS := bash-completion/completions/weft zsh/site-functions/_weft fish/vendor_completions.d/weft.fish
UNITDIR ?= /etc/systemd/system
# A weft that runs on this machine, whatever is installed: it writes the completions.
RUNS    ?= $(BIN)
# A package sets DESTDIR and leaves the running system to its own scripts.
SYSTEMCTL := $(if $(DESTDIR),true,$(if $(wildcard /run/systemd/system),systemctl,true))

install: build ## install binary, service, completion, manual page and the group weft (needs root)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/weft
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(PREFIX)/share/man/man8
	sed 's,/usr/local/bin/weft,$(PREFIX)/bin/weft,' packaging/weft.service > $(DESTDIR)$(UNITDIR)/weft.service
	gzip -9nc packaging/weft.8 > $(DESTDIR)$(PREFIX)/share/man/man8/weft.8.gz
	for c in $(COMPLETIONS); do \
	  install -d "$(DESTDIR)$(PREFIX)/share/$${c%/*}" && \
	  $(RUNS) completion "$$(echo "$${c%%/*}" | cut -d- -f1)" > "$(DESTDIR)$(PREFIX)/share/$$c" || exit 1; \
	done
	[ -n "$(DESTDIR)" ] || getent group weft >/dev/null || groupadd --system weft
	$(SYSTEMCTL) daemon-reload

uninstall: ## stop the service and remove what install put there; /var/lib/weft and the group stay
	[ ! -e $(DESTDIR)$(UNITDIR)/weft.service ] || $(SYSTEMCTL) disable --now weft
	rm -f $(DESTDIR)$(PREFIX)/bin/weft $(DESTDIR)$(UNITDIR)/weft.service $(DESTDIR)$(PREFIX)/share/man/man8/weft.8.gz \
	  $(addprefix $(DESTDIR)$(PREFIX)/share/,$(COMPLETIONS))
	$(SYSTEMCTL) daemon-reload

# Where package writes, and for which processors.
DIST    ?= dist
ARCHS   ?= amd64 arm64
NFPM    := $(GO) tool -modfile=tools/go.mod nfpm

package: build ## write deb and rpm for amd64 and arm64 to dist/
	set -e; version=$$(packaging/version "$(VERSION)"); umask 022; \
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0); export SOURCE_DATE_EPOCH; \
	for arch in $(ARCHS); do \
	  rm -rf "$(DIST)/$$arch"; \
	  GOOS=linux GOARCH=$$arch $(MAKE) --no-print-directory install VERSION="$(VERSION)" BIN="$(DIST)/$$arch/weft" RUNS="$(BIN)" \
	    DESTDIR="$(DIST)/$$arch/root" PREFIX=/usr UNITDIR=/usr/lib/systemd/system; \
	  gzip -9nc CHANGELOG.md > "$(DIST)/$$arch/root/CHANGELOG.md.gz"; \
	  printf 'weft (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz beside this file.\n\n -- weft maintainers <maintainers@weft-net.example>  %s\n' \
	    "$$version" "$$(TZ=UTC date -R -d "@$$SOURCE_DATE_EPOCH")" | gzip -9nc > "$(DIST)/$$arch/root/changelog.gz"; \
	  find "$(DIST)/$$arch/root" -exec touch -h -d "@$$SOURCE_DATE_EPOCH" {} +; \
	  for kind in deb rpm; do \
	    ARCH=$$arch VERSION=$$version ROOT="$(DIST)/$$arch/root" $(NFPM) package -f packaging/nfpm.yaml -p $$kind -t "$(DIST)/"; \
	  done; \
	  rm -rf "$(DIST)/$$arch"; \
	done

clean: ## remove what build made
	rm -rf bin dist
