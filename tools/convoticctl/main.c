
/*
 * Copyright (C) 2026 Convotic
 *
 * convoticctl, the administrator's tool: API keys and what is left of their
 * rates, the purge of a workspace's cached responses, and a check of the two
 * Redis servers behind the gateway.  One command a run, over blocking
 * connections.
 *
 * This file owns the table of commands and the course of a run.  The files, a
 * row including only those of rows below it, or further left:
 *
 *     main
 *     doctor_side  doctor_server  doctor_policy  doctor_store  doctor
 *     meta  cache  keys  rate
 *     options
 *     ctl
 *     record  records
 *     conn  names  master
 *     server
 *     date  key  window
 *     rc  output  mem  text
 */


#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"
#include "ctl.h"
#include "doctor.h"
#include "keys.h"
#include "meta.h"
#include "options.h"
#include "output.h"
#include "rate.h"
#include "rc.h"
#include "server.h"


#ifndef CONVOTIC_VERSION
#define CONVOTIC_VERSION  "0.1.0"
#endif


static const ctl_command_t  main_commands[] = {

    { NULL, "init", meta_init_handler, 0, 0, 0, "init",
      "mark the key server as ours, which the gateway demands" },

    { "key", "create", keys_create_handler, 0,
      O_BIT(O_WORKSPACE) | O_BIT(O_NAME) | O_BIT(O_RATE) | O_BIT(O_EXPIRES),
      O_BIT(O_WORKSPACE),
      "key create --workspace W [--name N] [--rate R] [--expires T]",
      "make an API key and show it once" },

    { "key", "list", keys_list_handler, 0, O_BIT(O_WORKSPACE), 0,
      "key list [--workspace W]",
      "list the records of API keys" },

    { "key", "show", keys_show_handler, 1, 0, 0, "key show ID|HASH|-",
      "show the record of one key" },

    { "key", "check", keys_check_handler, 1, 0, 0, "key check -",
      "check the form and checksum of a key, without Redis" },

    { "key", "disable", keys_disable_handler, 1, 0, 0,
      "key disable ID|HASH|-",
      "refuse a key until it is enabled" },

    { "key", "enable", keys_enable_handler, 1, 0, 0, "key enable ID|HASH|-",
      "accept a disabled key again" },

    { "key", "revoke", keys_revoke_handler, 1, 0, 0, "key revoke ID|HASH|-",
      "refuse a key for ever" },

    { "key", "rotate", keys_rotate_handler, 1, O_BIT(O_GRACE), 0,
      "key rotate ID|HASH|- [--grace T]",
      "replace a key; the old one works for T more" },

    { "rate", "show", rate_show_handler, 1, 0, 0, "rate show ID|HASH|-",
      "show what the nodes have leased of a key's rate" },

    { "rate", "reset", rate_reset_handler, 1, 0, 0, "rate reset ID|HASH|-",
      "begin a key's minute anew, on every node" },

    { "cache", "purge", cache_purge_handler, 0, O_BIT(O_WORKSPACE),
      O_BIT(O_WORKSPACE),
      "cache purge --workspace W",
      "forget the cached responses of a workspace" },

    { NULL, "doctor", doctor_handler, 0, 0, 0, "doctor",
      "check both Redis servers" },

    { NULL, NULL, NULL, 0, 0, 0, NULL, NULL }
};


static const char  main_options[] =
    "\n"
    "Options of every command:\n"
    "  --redis URL                 the key server; CONVOTIC_REDIS, or\n"
    "                              redis://127.0.0.1:6379/0\n"
    "  --cache-redis URL           the server of cached bodies, for doctor;\n"
    "                              CONVOTIC_CACHE_REDIS\n"
    "  --password-file FILE        its first line is the password\n"
    "  --cache-password-file FILE  the same for --cache-redis\n"
    "  --prefix P                  of the names in Redis; convotic:\n"
    "  --timeout SECONDS           for each answer; 2\n"
    "  --json                      print JSON\n"
    "  --help, --version\n"
    "\n"
    "URL: redis://[user[:password]@]host[:port][/db] or unix:/path[?db=N]\n"
    "A raw key is read from standard input where - is given.\n"
    "Exit code: 0 done, 1 failed, 2 usage, 3 done but no replica has it,\n"
    "4 no such key.\n";


static void
main_usage(const ctl_command_t *command)
{
    const ctl_command_t  *c;

    if (command) {
        printf("Usage: convoticctl %s\n%s\n%s", command->usage, command->text,
               main_options);
        return;
    }

    puts("Usage: convoticctl COMMAND [OPTIONS]\n");

    for (c = main_commands; c->name != NULL; c++) {
        printf("  %s\n      %s\n", c->usage, c->text);
    }

    fputs(main_options, stdout);
}


/* words are those of the command line that are no options */

static const ctl_command_t *
main_command_find(int n, char **words)
{
    const ctl_command_t  *c;

    for (c = main_commands; c->name != NULL; c++) {

        if (c->group == NULL && n >= 1 && strcmp(words[0], c->name) == 0) {
            return c;
        }

        if (c->group && n >= 2 && strcmp(words[0], c->group) == 0
            && strcmp(words[1], c->name) == 0)
        {
            return c;
        }
    }

    return NULL;
}


static rc_t
main_command(ctl_t *ctl, int n, char **words)
{
    int                   used;
    const ctl_command_t  *c;

    c = main_command_find(n, words);

    if (c == NULL) {
        output_say(n == 0
                   ? "no command is given; see convoticctl --help"
                   : "there is no such command; see convoticctl --help");
        return RC_USAGE;
    }

    used = c->group ? 2 : 1;

    if (n - used != c->operands) {
        output_say("too %s operands; the command is: convoticctl %s",
                   n - used > c->operands ? "many" : "few", c->usage);
        return RC_USAGE;
    }

    ctl->command = c;
    ctl->operand = c->operands ? words[used] : NULL;

    return RC_OK;
}


static rc_t
main_run(ctl_t *ctl, int argc, char **argv)
{
    rc_t  rc;

    rc = options_parse(ctl, argc, argv);
    if (rc != RC_OK) {
        return rc;
    }

    if (ctl->value[O_VERSION]) {
        puts("convoticctl " CONVOTIC_VERSION);
        return RC_OK;
    }

    if (ctl->value[O_HELP]) {
        main_usage(main_command_find(argc - optind, argv + optind));
        return RC_OK;
    }

    rc = main_command(ctl, argc - optind, argv + optind);
    if (rc != RC_OK) {
        return rc;
    }

    rc = options_check(ctl);

    return rc == RC_OK ? ctl->command->handler(ctl) : rc;
}


/*
 * Where 0, 1 or 2 is closed, a socket to Redis would take its number, and the
 * key would be printed there.  Reading and writing now fail instead.
 */

static void
main_descriptors(void)
{
    int  fd;

    for (fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1
            && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) == -1)
        {
            exit(RC_FAILED);
        }
    }
}


int
main(int argc, char **argv)
{
    rc_t   rc;
    ctl_t  ctl;

    main_descriptors();

    /* hiredis writes to sockets without MSG_NOSIGNAL */

    signal(SIGPIPE, SIG_IGN);

    memset(&ctl, 0, sizeof(ctl_t));
    ctl.now = time(NULL);

    rc = main_run(&ctl, argc, argv);

    if (rc == RC_OK && !output_flush()) {
        rc = RC_FAILED;
    }

    server_free(&ctl.keys);
    server_free(&ctl.bodies);

    return rc;
}
