
/*
 * A run: one command, and what the command line and the environment gave.
 */


#ifndef _CTL_CTL_H_INCLUDED_
#define _CTL_CTL_H_INCLUDED_


#include <stdbool.h>
#include <time.h>

#include "rc.h"
#include "server.h"


typedef enum {
    O_WORKSPACE = 0,
    O_NAME,
    O_RATE,
    O_EXPIRES,
    O_GRACE,
    O_REDIS,
    O_CACHE_REDIS,
    O_PASSWORD_FILE,
    O_CACHE_PASSWORD_FILE,
    O_PREFIX,
    O_TIMEOUT,
    O_JSON,
    O_HELP,
    O_VERSION,
    O_COUNT
} ctl_option_t;

#define O_GLOBAL          O_REDIS       /* this and later: every command */
#define O_BIT(option)     (1u << (option))


typedef struct ctl_s  ctl_t;

typedef struct {
    const char  *group;                 /* NULL: a command of one word */
    const char  *name;
    rc_t       (*handler)(const ctl_t *ctl);
    int          operands;
    unsigned     options;               /* O_BIT() of those below O_GLOBAL */
    unsigned     required;
    const char  *usage;
    const char  *text;
} ctl_command_t;


struct ctl_s {
    const ctl_command_t  *command;
    const char           *operand;
    const char           *value[O_COUNT];   /* NULL: the option is not given */
    const char           *prefix;
    int                   timeout;          /* seconds */
    long long             expires;          /* unix seconds */
    long long             grace;            /* seconds */
    time_t                now;
    bool                  json;
    server_t              keys;
    server_t              bodies;           /* if value[O_CACHE_REDIS] */
};


#endif /* _CTL_CTL_H_INCLUDED_ */
