# weft: `make demo` shows it, `make test` proves it. Everything else is in the list that `make help` prints.

GO      ?= go
PREFIX  ?= /usr/local
BIN     := bin/weft
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# How long each fuzz target runs: make fuzz FUZZTIME=60s
FUZZTIME ?= 10s
LINT    := $(GO) tool -modfile=tools/go.mod golangci-lint

.PHONY: help build demo test histories test-deps test-long lint fuzz bench bench-deps bench-go soak install uninstall clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

build: ## build bin/weft: one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/weft

demo: ## three hosts, a cloud that drops multicast, and a chat over it (needs root)
	@./demo/demo.sh

test: test-deps ## every test, race detector on, in random order (needs root, about 15 minutes)
	$(GO) test -race -shuffle=on -count=1 -timeout 10m $$($(GO) list ./... | grep -v '/test$$')
	$(GO) test -race -shuffle=on -count=1 -timeout 25m ./test # alone: it measures

test-deps: ## install the Debian packages the tests need and this machine lacks
	@./.ci/deps

histories: ## 10,000 seeded histories of the bus simulator: loss, cuts, pauses, crashes; about three minutes
	WEFT_LONG=10000 $(GO) test -count=1 -timeout 60m -run '^TestHistories$$' -v ./internal/rmcast

test-long: test-deps ## the same tests, longer: more hosts, more kills, more datagrams
	WEFT_TEST_LONG=1 $(GO) test -race -shuffle=on -count=1 -timeout 60m ./...

lint: test-deps ## formatting, linters, tidy go.mod, layers, and that it builds elsewhere
	$(GO) mod tidy -diff
	$(LINT) run
	$(GO) vet -tags soak ./test/soak
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

bench: build bench-deps ## compare with kernel VXLAN, wireguard-go and others: docs/benchmarks.md (needs root, 2 hours; ROUNDS=1: 20 minutes)
	$(GO) build -o bin/bench ./test/bench
	./bin/bench

bench-deps: ## install the peers of bench and its tools, as far as they can be had
	@./.ci/deps bench

bench-go: ## run every Go benchmark, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

soak: build test-deps ## 10^8 packets, with faults: does anything grow or stay behind? docs/soak.md (needs root, 30 to 40 minutes; PACKETS=2e6: a look)
	WEFT_BIN=$(CURDIR)/$(BIN) $(GO) test -tags soak -count=1 -timeout 4h -run '^TestSoak$$' -v ./test/soak

COMPLETIONS := bash-completion/completions/weft zsh/site-functions/_weft fish/vendor_completions.d/weft.fish
# A package sets DESTDIR and leaves the running system to its own scripts.
SYSTEMCTL := $(if $(DESTDIR),true,$(if $(wildcard /run/systemd/system),systemctl,true))

install: build ## install binary, service, completion and the group weft (needs root)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/weft
	install -d $(DESTDIR)/etc/systemd/system
	sed 's,/usr/local/bin/weft,$(PREFIX)/bin/weft,' packaging/weft.service > $(DESTDIR)/etc/systemd/system/weft.service
	for c in $(COMPLETIONS); do \
	  install -d "$(DESTDIR)$(PREFIX)/share/$${c%/*}" && \
	  $(BIN) completion "$$(echo "$${c%%/*}" | cut -d- -f1)" > "$(DESTDIR)$(PREFIX)/share/$$c" || exit 1; \
	done
	[ -n "$(DESTDIR)" ] || getent group weft >/dev/null || groupadd --system weft
	$(SYSTEMCTL) daemon-reload

uninstall: ## stop the service and remove what install put there; /var/lib/weft and the group stay
	[ ! -e $(DESTDIR)/etc/systemd/system/weft.service ] || $(SYSTEMCTL) disable --now weft
	rm -f $(DESTDIR)$(PREFIX)/bin/weft $(DESTDIR)/etc/systemd/system/weft.service \
	  $(addprefix $(DESTDIR)$(PREFIX)/share/,$(COMPLETIONS))
	$(SYSTEMCTL) daemon-reload

clean: ## remove what build made
	rm -rf bin
