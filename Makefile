# The everyday commands. `make help` lists them. Everything runs in the environment that scripts/devroot makes:
# a Debian 13 userland, this machine's own or a tools root; both demo and check set it up by themselves.
RUN      := scripts/devroot run
DESTDIR  ?=
PREFIX   ?= /usr
TARGET   := $(or $(CARGO_TARGET_DIR),$(shell scripts/devroot path)/target)
BINARY   := $(TARGET)/release/apt-ostree

.PHONY: all demo vm check check-quick check-vm lint bench install deb clean help
all:           ## build the release binary
	$(RUN) cargo build --release --locked --package apt-ostree
	@echo "built $(BINARY)"
demo:          ## compose a Debian 13 tree, deploy it, layer, upgrade, roll back (as root)
	$(RUN) scripts/demo
vm:            ## boot the example image in a virtual machine, with a console and ssh (as root)
	$(RUN) scripts/vm
check:         ## lint and run every test, boots included (as root)
	$(RUN) tests/check all
check-quick:   ## lint and the tests that need no package archive
	$(RUN) tests/check quick
check-vm:      ## the long tests: virtual machines (firmware, power cuts, boot counting), programs from PyPI (as root)
	$(RUN) tests/check vm
lint:          ## rustfmt, clippy and shellcheck, warnings denied
	$(RUN) tests/check lint
bench:         ## measure against apt-get, mmdebstrap and ostree, side by side (as root)
	$(RUN) tests/bench
install: all   ## install binary, man pages, completions and data below DESTDIR
	$(RUN) scripts/install "$(BINARY)" "$(DESTDIR)" "$(PREFIX)"
deb:           ## build the Debian package, and a local archive with it to compose images from
	$(RUN) sh -c 'deb=$$(scripts/deb) && scripts/archive "$$APT_OSTREE_CACHE/archive" "$$deb" && echo "$$deb"'
clean:         ## delete build results
	rm -rf "$(TARGET)"
help:          ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
