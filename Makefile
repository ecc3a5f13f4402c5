# make                  build/ngx_convotic_module.so and build/convoticctl
# make install          both, and the man page, below DESTDIR
# make build/simulate   nodes that share a rate, in a simulation: t/simulate
# make lint             cppcheck and the ranks of the includes
# make clean
#
# NGINX_SRC=dir         a source tree of nginx; that of Debian's nginx-dev
#                       otherwise, which is for the nginx that is installed
# NGX_CONFIGURE="..."   what that nginx was configured with, as "nginx -V"
#                       tells, where it was built without --with-compat
# SANITIZE=1            with AddressSanitizer and UBSan

NGINX_SRC =	/usr/share/nginx/src
NGX_CONFIGURE =	--with-compat
SANITIZE =

CC =		cc
CFLAGS =	-O2 -g
BUILD =		build
DESTDIR =
PREFIX =	/usr
MODULES =	$(PREFIX)/lib/nginx/modules

TOP :=		$(CURDIR)
LIBS =		hiredis jansson libcrypto
TREE =		$(BUILD)/nginx
SOURCES =	config $(wildcard ngx_convotic_module/*.[ch])

ifneq ($(SANITIZE),)
SANITIZERS =	-fsanitize=address,undefined -fno-sanitize-recover=undefined \
		-fno-omit-frame-pointer
endif

.PHONY: all install lint clean

all: $(BUILD)/ngx_convotic_module.so $(BUILD)/convoticctl

# Another source tree, or other flags, than last time: everything anew.

$(BUILD)/.for: FORCE
	@mkdir -p $(BUILD)
	@echo '$(NGINX_SRC) $(NGX_CONFIGURE) $(SANITIZE) $(CC) $(CFLAGS)' \
	    "`cat $(NGINX_SRC)/src/core/nginx.h 2>/dev/null | cksum`" >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

FORCE:

# Debian's conf_flags is an array of bash; its nginx may have been built by
# another compiler, whose options are not wanted here.

$(TREE)/objs/Makefile: $(BUILD)/.for config
	@test -f $(NGINX_SRC)/src/core/nginx.h || { \
	    echo "$(NGINX_SRC) has no source tree of nginx: install nginx-dev" \
	         "or give NGINX_SRC=dir" >&2; exit 1; }
	rm -rf $(TREE)
	mkdir -p $(TREE)
	tar -C $(NGINX_SRC) --exclude=.git --exclude=./objs -cf - . | tar -C $(TREE) -xf -
	cd $(TREE) && bash -c ' \
	    NGX_CONF_FLAGS=($(NGX_CONFIGURE)); \
	    test ! -f $(NGINX_SRC)/conf_flags || . $(NGINX_SRC)/conf_flags; \
	    configure=configure; test -f $$configure || configure=auto/configure; \
	    sh ./$$configure "$${NGX_CONF_FLAGS[@]}" --with-cc="$(CC)" \
	        --with-cc-opt="$(CFLAGS) -Wall -Wextra -Wno-unused-parameter \
	                       -fPIC $(SANITIZERS)" \
	        --with-ld-opt="$(SANITIZERS)" \
	        --add-dynamic-module=$(TOP)' >$(abspath $(BUILD))/configure.log || \
	    { tail -5 $(abspath $(BUILD))/configure.log >&2; exit 1; }

$(BUILD)/ngx_convotic_module.so: $(TREE)/objs/Makefile $(SOURCES)
	$(MAKE) -C $(TREE) -f objs/Makefile modules
	cp $(TREE)/objs/ngx_convotic_module.so $@.new
	mv $@.new $@

# The limits' simulation, for t/rate_simulation.t: always with sanitizers.

SIMULATED =	ngx_convotic_module/ngx_convotic_leases.c \
		ngx_convotic_module/ngx_convotic_table.c

$(BUILD)/simulate: $(wildcard t/simulate/*.[ch] ngx_convotic_module/*.h) \
		$(SIMULATED) | $(TREE)/objs/Makefile
	$(CC) -O1 -g -Wall -Wextra -Wno-unused-parameter -Werror \
	    -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	    -D_GNU_SOURCE -Dkill=simulate_kill -Ingx_convotic_module \
	    -I$(TREE)/objs \
	    $(addprefix -I$(TREE)/src/,core event event/modules event/quic \
	                               os/unix http http/modules http/v2 \
	                               http/v3) \
	    $$(pkg-config --cflags lua5.1) -o $@.new \
	    t/simulate/*.c $(SIMULATED) $$(pkg-config --libs lua5.1 hiredis)
	mv $@.new $@

$(BUILD)/convoticctl: $(wildcard tools/convoticctl/*.[ch]) $(BUILD)/.for
	$(CC) $(CFLAGS) -Wall -Wextra -Werror $(SANITIZERS) -o $@ \
	    tools/convoticctl/*.c $$(pkg-config --cflags --libs $(LIBS))

install: all
	install -D -m 644 $(BUILD)/ngx_convotic_module.so \
	    $(DESTDIR)$(MODULES)/ngx_convotic_module.so
	install -D -m 755 $(BUILD)/convoticctl \
	    $(DESTDIR)$(PREFIX)/bin/convoticctl
	install -D -m 644 tools/convoticctl.1 \
	    $(DESTDIR)$(PREFIX)/share/man/man1/convoticctl.1

lint:
	tools/lint

clean:
	rm -rf $(BUILD)
