
/*
 * A blocking connection to a Redis server.
 */


#ifndef _CTL_CONN_H_INCLUDED_
#define _CTL_CONN_H_INCLUDED_


#include <stdbool.h>

#include <hiredis.h>

#include "rc.h"
#include "server.h"


#define CONN_ERROR_MAX  512             /* bytes of a sentence */


/* all zeros: closed */

typedef struct {
    redisContext               *redis;          /* NULL: closed */
    const server_t             *server;
    int                         timeout;        /* seconds */
    redisReplyObjectFunctions   fn;
    redisReplyObjectFunctions  *fn_default;
    char                        error[CONN_ERROR_MAX];
} conn_t;


/*
 * Connects, with AUTH and SELECT as the URL has it; timeout is in seconds, for
 * the connection and for each answer.  c stays where it is while it is open.
 * false: it is closed, c->error says why.
 */
bool conn_open(conn_t *c, const server_t *server, int timeout);

/* a closed one is allowed; c->error stays */
void conn_close(conn_t *c);

/* queues a command; argv ends with a NULL; nothing if c is closed */
void conn_append(conn_t *c, const char *const *argv);

/*
 * Sends what is queued; the next reply, an error too, which the caller frees.
 * NULL: c is closed, c->error says why.
 */
redisReply *conn_read(conn_t *c);

/*
 * One command; a reply of this type, which the caller frees.  NULL: c->error
 * says why; c may still be open.
 */
redisReply *conn_ask(conn_t *c, int type, const char *const *argv);

/* the same where it is enough that the reply is of this type */
bool conn_do(conn_t *c, int type, const char *const *argv);

/* the same for an integer; *n is left alone where there is none */
bool conn_integer(conn_t *c, const char *const *argv, long long *n);

/* makes the sentence c->error */
void conn_fail(conn_t *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* the same from an error reply */
void conn_error_reply(conn_t *c, const redisReply *reply);

/* says c->error; RC_FAILED */
rc_t conn_report(const conn_t *c);

/* the monotonic clock, milliseconds */
long long conn_msec(void);


#endif /* _CTL_CONN_H_INCLUDED_ */
