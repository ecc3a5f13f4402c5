
/*
 * Owns the options: their names, their values, and which command takes which.
 * Values stay where argv and the environment have them.  What may be a
 * password or a key is not repeated in a message.  main.c calls it before the
 * command's handler.
 */


#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "date.h"
#include "options.h"
#include "output.h"
#include "record.h"
#include "server.h"
#include "text.h"


#define OPTIONS_BASE             256    /* keeps clear of short options */
#define OPTIONS_PREFIX           "convotic:"
#define OPTIONS_PREFIX_MAX       128    /* bytes */
#define OPTIONS_REDIS            "redis://127.0.0.1:6379/0"
#define OPTIONS_TIMEOUT_DEFAULT  2      /* seconds */
#define OPTIONS_TIMEOUT_MAX      600    /* seconds */


typedef struct {
    ctl_option_t   option;
    bool         (*take)(ctl_t *ctl, const char *value);
    const char    *allowed;             /* where it is false */
} options_value_t;


static bool options_workspace(ctl_t *ctl, const char *value);
static bool options_name(ctl_t *ctl, const char *value);
static bool options_rate(ctl_t *ctl, const char *value);
static bool options_expires(ctl_t *ctl, const char *value);
static bool options_expires_later(ctl_t *ctl, const char *value);
static bool options_grace(ctl_t *ctl, const char *value);
static bool options_prefix(ctl_t *ctl, const char *value);
static bool options_timeout(ctl_t *ctl, const char *value);


/* in the order of ctl_option_t */

static const struct option  options_long[] = {
    { "workspace", required_argument, NULL, OPTIONS_BASE + O_WORKSPACE },
    { "name", required_argument, NULL, OPTIONS_BASE + O_NAME },
    { "rate", required_argument, NULL, OPTIONS_BASE + O_RATE },
    { "expires", required_argument, NULL, OPTIONS_BASE + O_EXPIRES },
    { "grace", required_argument, NULL, OPTIONS_BASE + O_GRACE },
    { "redis", required_argument, NULL, OPTIONS_BASE + O_REDIS },
    { "cache-redis", required_argument, NULL, OPTIONS_BASE + O_CACHE_REDIS },
    { "password-file", required_argument, NULL,
      OPTIONS_BASE + O_PASSWORD_FILE },
    { "cache-password-file", required_argument, NULL,
      OPTIONS_BASE + O_CACHE_PASSWORD_FILE },
    { "prefix", required_argument, NULL, OPTIONS_BASE + O_PREFIX },
    { "timeout", required_argument, NULL, OPTIONS_BASE + O_TIMEOUT },
    { "json", no_argument, NULL, OPTIONS_BASE + O_JSON },
    { "help", no_argument, NULL, OPTIONS_BASE + O_HELP },
    { "version", no_argument, NULL, OPTIONS_BASE + O_VERSION },
    { NULL, 0, NULL, 0 }
};


static const options_value_t  options_values[] = {

    { O_WORKSPACE, options_workspace,
      "1 to 128 characters of A-Z a-z 0-9 . _ - are allowed" },

    { O_NAME, options_name,
      "up to 256 bytes of UTF-8 without control characters are allowed" },

    { O_RATE, options_rate,
      "an integer from 1 to 1000000000, requests per minute, is allowed" },

    { O_EXPIRES, options_expires,
      "unix seconds, YYYY-MM-DD, YYYY-MM-DDTHH:MM:SSZ, or +N with s, m, h or d "
      "are allowed" },

    { O_EXPIRES, options_expires_later,
      "this time is past; one to come is allowed" },

    { O_GRACE, options_grace,
      "0, or a number with s, m, h or d, is allowed" },

    { O_PREFIX, options_prefix,
      "up to 128 visible ASCII characters other than braces are allowed" },

    { O_TIMEOUT, options_timeout,
      "an integer from 1 to 600, seconds, is allowed" },

    { O_COUNT, NULL, NULL }
};


/* no argument is repeated: it may be a password, or a key */

static rc_t
options_unknown(int argc, char **argv, int opt)
{
    int  i, len;

    i = optind - 1;

    if (opt == ':') {
        output_say("the option %s needs a value; see convoticctl --help",
                   (i > 0 && i < argc) ? argv[i] : "");

    } else if (optopt > 0 && optopt < OPTIONS_BASE) {
        output_say("the option -%c is unknown; see convoticctl --help",
                   optopt);

    } else {
        len = (i > 0 && i < argc) ? (int) strcspn(argv[i], "=") : 0;
        output_say("the option %.*s is unknown, ambiguous, or takes no value; "
                   "see convoticctl --help", len, len ? argv[i] : "");
    }

    return RC_USAGE;
}


rc_t
options_parse(ctl_t *ctl, int argc, char **argv)
{
    int  opt;

    opterr = 0;

    for ( ;; ) {
        opt = getopt_long(argc, argv, ":h", options_long, NULL);

        if (opt == -1) {
            return RC_OK;
        }

        if (opt == 'h') {
            opt = OPTIONS_BASE + O_HELP;
        }

        if (opt < OPTIONS_BASE) {
            return options_unknown(argc, argv, opt);
        }

        ctl->value[opt - OPTIONS_BASE] = optarg ? optarg : "";
    }
}


/* of the options that only some commands have */

static rc_t
options_check_command(const ctl_t *ctl)
{
    int                   i;
    const ctl_command_t  *c;

    c = ctl->command;

    for (i = 0; i < O_GLOBAL; i++) {
        if (ctl->value[i] && !(c->options & O_BIT(i))) {
            output_say("the option --%s does not belong here; the command is: "
                       "convoticctl %s", options_long[i].name, c->usage);
            return RC_USAGE;
        }
    }

    for (i = 0; i < O_GLOBAL; i++) {
        if (ctl->value[i] == NULL && (c->required & O_BIT(i))) {
            output_say("--%s is missing; the command is: convoticctl %s",
                       options_long[i].name, c->usage);
            return RC_USAGE;
        }
    }

    return RC_OK;
}


static rc_t
options_check_operand(const ctl_t *ctl)
{
    const char  *operand;

    operand = ctl->operand;

    if (operand == NULL || strcmp(operand, "-") == 0) {
        return RC_OK;
    }

    if (strncmp(operand, "cvtk_", 5) == 0) {
        output_say("a raw key does not belong on a command line, which others "
                   "can see; give - and the key on standard input");
        return RC_USAGE;
    }

    if (!text_word(operand, strlen(operand))) {
        output_say("the operand is neither an id, 1 to %d characters of A-Z "
                   "a-z 0-9 . _ -, nor a hash, nor -", TEXT_WORD_MAX);
        return RC_USAGE;
    }

    return RC_OK;
}


static bool
options_workspace(ctl_t *ctl, const char *value)
{
    (void) ctl;

    return text_word(value, strlen(value));
}


/* a name is shown to people: text, and no control characters in it */

static bool
options_name(ctl_t *ctl, const char *value)
{
    size_t  i, len;

    (void) ctl;

    len = strlen(value);

    for (i = 0; i < len; i++) {
        if (text_control(value + i, len - i)) {
            return false;
        }
    }

    return len <= RECORD_NAME_MAX && text_utf8(value, len);
}


static bool
options_rate(ctl_t *ctl, const char *value)
{
    (void) ctl;

    return text_number(value, strlen(value), RECORD_RATE_MAX) >= 1;
}


static bool
options_expires(ctl_t *ctl, const char *value)
{
    ctl->expires = date_parse(value, ctl->now);

    return ctl->expires != -1;
}


static bool
options_expires_later(ctl_t *ctl, const char *value)
{
    (void) value;

    return ctl->expires > (long long) ctl->now;
}


static bool
options_grace(ctl_t *ctl, const char *value)
{
    ctl->grace = date_duration(value);

    return ctl->grace != -1 && ctl->grace <= DATE_MAX - ctl->now;
}


static bool
options_prefix(ctl_t *ctl, const char *value)
{
    const char  *p;

    for (p = value; *p > 0x20 && *p < 0x7f && *p != '{' && *p != '}'; p++) {
        /* void */
    }

    ctl->prefix = value;

    return *p == '\0' && p - value <= OPTIONS_PREFIX_MAX;
}


static bool
options_timeout(ctl_t *ctl, const char *value)
{
    ctl->timeout = (int) text_number(value, strlen(value),
                                     OPTIONS_TIMEOUT_MAX);

    return ctl->timeout >= 1;
}


static rc_t
options_check_values(ctl_t *ctl)
{
    char                   *text;
    const char             *value;
    const options_value_t  *v;

    for (v = options_values; v->take != NULL; v++) {
        value = ctl->value[v->option];

        if (value == NULL || v->take(ctl, value)) {
            continue;
        }

        text = text_escape(value, strlen(value));
        output_say("--%s \"%.200s\": %s", options_long[v->option].name, text,
                   v->allowed);
        free(text);

        return RC_USAGE;
    }

    return RC_OK;
}


/*
 * An option or, without it, its environment variable; an empty one is none.
 * What it was, for messages; NULL: neither.
 */

static const char *
options_or_env(ctl_t *ctl, ctl_option_t option, const char *name,
    const char *env)
{
    const char  *value;

    if (ctl->value[option]) {
        return name;
    }

    value = getenv(env);

    if (value && *value) {
        ctl->value[option] = value;
        return env;
    }

    return NULL;
}


static rc_t
options_check_servers(ctl_t *ctl)
{
    rc_t         rc;
    const char  *source;

    source = options_or_env(ctl, O_REDIS, "--redis", "CONVOTIC_REDIS");

    rc = server_parse(&ctl->keys, source ? source : "",
                      source ? ctl->value[O_REDIS] : OPTIONS_REDIS,
                      "--password-file", ctl->value[O_PASSWORD_FILE]);
    if (rc != RC_OK) {
        return rc;
    }

    source = options_or_env(ctl, O_CACHE_REDIS, "--cache-redis",
                            "CONVOTIC_CACHE_REDIS");
    if (source) {
        return server_parse(&ctl->bodies, source, ctl->value[O_CACHE_REDIS],
                            "--cache-password-file",
                            ctl->value[O_CACHE_PASSWORD_FILE]);
    }

    if (ctl->value[O_CACHE_PASSWORD_FILE]) {
        output_say("--cache-password-file needs --cache-redis");
        return RC_USAGE;
    }

    return RC_OK;
}


rc_t
options_check(ctl_t *ctl)
{
    rc_t  rc;

    ctl->json = ctl->value[O_JSON] != NULL;
    ctl->prefix = OPTIONS_PREFIX;
    ctl->timeout = OPTIONS_TIMEOUT_DEFAULT;

    if ((rc = options_check_command(ctl)) != RC_OK
        || (rc = options_check_operand(ctl)) != RC_OK
        || (rc = options_check_values(ctl)) != RC_OK
        || (rc = options_check_servers(ctl)) != RC_OK)
    {
        return rc;
    }

    return RC_OK;
}
