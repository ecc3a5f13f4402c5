
/*
 * Owns a connection: the socket, the timeouts, the bounds of a reply, and the
 * sentences for what goes wrong.  One that broke, timed out or answered what
 * is no Redis protocol is closed at once and never used again, so that no
 * late reply answers another command.  A conn_t lives in its command's frame;
 * master.c, names.c, records.c and the commands ask over it.
 */


#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "conn.h"
#include "output.h"
#include "text.h"


#define CONN_ELEMENTS_MAX  1000000      /* of one reply */
#define CONN_REPLY_MAX     (256 * 1024 * 1024) /* buffered bytes */


#if (HIREDIS_MAJOR >= 1)
typedef size_t  conn_elements_t;
#else
typedef int  conn_elements_t;
#endif


typedef struct {
    const char  *code;                  /* in a script it is in the middle */
    const char  *text;
} conn_error_t;


static const conn_error_t  conn_errors[] = {
    { "READONLY", "this server is a read-only replica; name its master" },
    { "DENIED", "the server is in protected mode, which refuses this host" },
    { "NOAUTH", "the server asks for a password; give it in the URL or in a "
                "password file" },
    { "NOPERM", "the user lacks a permission" },
    { "can't run this command", "the user lacks a permission" },
    { "ACL failure in script", "the user lacks a permission" },
    { "WRONGTYPE", "the Redis key holds a value of another type" },
    { "OOM", "the server has reached its maxmemory" },
    { "LOADING", "the server is loading its data; try again later" },
    { "MASTERDOWN", "this server is a replica without its master" },
    { "MISCONF", "the server refuses writes that it cannot save to disk" },
    { "NOREPLICAS", "the server refuses writes: fewer replicas than its "
                    "min-replicas-to-write" },
    { "MOVED", "Redis Cluster is not supported" },
    { "CLUSTERDOWN", "Redis Cluster is not supported" },
    { "max number of clients", "the server has too many clients" },
    { "", "the server answered with an error" }
};


void
conn_fail(conn_t *c, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    vsnprintf(c->error, sizeof(c->error), fmt, args);
    va_end(args);
}


rc_t
conn_report(const conn_t *c)
{
    output_say("%s: %s", c->server->shown, c->error);

    return RC_FAILED;
}


void
conn_close(conn_t *c)
{
    if (c->redis) {
        redisFree(c->redis);
        c->redis = NULL;
    }
}


/* always NULL: the connection is closed, c->error says why */

static redisReply *
conn_broken(conn_t *c)
{
    if (c->redis == NULL) {
        conn_fail(c, "the connection was lost");

    } else if (c->redis->err == REDIS_ERR_IO
               && (errno == EAGAIN || errno == EWOULDBLOCK
                   || errno == ETIMEDOUT))
    {
        conn_fail(c, "no answer within %d seconds", c->timeout);

    } else {
        conn_fail(c, "the connection was lost: %s", c->redis->errstr);
    }

    conn_close(c);

    return NULL;
}


/* hiredis allocates what a server announces: "*2147483647" is 16 GiB */

static void *
conn_create_array(const redisReadTask *task, conn_elements_t n)
{
    conn_t  *c;

    c = task->privdata;

    if ((unsigned long long) n > CONN_ELEMENTS_MAX) {
        return NULL;
    }

    return c->fn_default->createArray(task, n);
}


long long
conn_msec(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}


void
conn_append(conn_t *c, const char *const *argv)
{
    int  argc;

    for (argc = 0; argv[argc] != NULL; argc++) { /* void */ }

    if (c->redis) {
        redisAppendCommandArgv(c->redis, argc, (const char **) argv, NULL);
    }
}


redisReply *
conn_read(conn_t *c)
{
    int        done;
    void      *reply;
    long long  deadline;

    if (c->redis == NULL) {
        return conn_broken(c);
    }

    for (done = 0; !done; /* void */ ) {
        if (redisBufferWrite(c->redis, &done) != REDIS_OK) {
            return conn_broken(c);
        }
    }

    deadline = conn_msec() + c->timeout * 1000LL;

    for ( ;; ) {
        reply = NULL;

        if (redisGetReplyFromReader(c->redis, &reply) != REDIS_OK) {
            return conn_broken(c);
        }

        if (reply) {
            return reply;
        }

        if (c->redis->reader->len > CONN_REPLY_MAX || conn_msec() > deadline) {
            conn_fail(c, "the answer is too large or too slow");
            conn_close(c);
            return NULL;
        }

        if (redisBufferRead(c->redis) != REDIS_OK) {
            return conn_broken(c);
        }
    }
}


void
conn_error_reply(conn_t *c, const redisReply *reply)
{
    char    *text;
    size_t   i;

    /* the last code is empty: it is in any reply */

    for (i = 0; strstr(reply->str, conn_errors[i].code) == NULL; i++) {
        /* void */
    }

    text = text_escape(reply->str, reply->len);
    conn_fail(c, "%s (%.300s)", conn_errors[i].text, text);
    free(text);
}


redisReply *
conn_ask(conn_t *c, int type, const char *const *argv)
{
    redisReply  *reply;

    conn_append(c, argv);
    reply = conn_read(c);

    if (reply == NULL || reply->type == type) {
        return reply;
    }

    if (reply->type == REDIS_REPLY_ERROR) {
        conn_error_reply(c, reply);

    } else {
        conn_fail(c, "an unexpected kind of answer to %s", argv[0]);
    }

    freeReplyObject(reply);

    return NULL;
}


bool
conn_do(conn_t *c, int type, const char *const *argv)
{
    redisReply  *reply;

    reply = conn_ask(c, type, argv);
    if (reply == NULL) {
        return false;
    }

    freeReplyObject(reply);

    return true;
}


bool
conn_integer(conn_t *c, const char *const *argv, long long *n)
{
    redisReply  *reply;

    reply = conn_ask(c, REDIS_REPLY_INTEGER, argv);
    if (reply == NULL) {
        return false;
    }

    *n = reply->integer;
    freeReplyObject(reply);

    return true;
}


static void
conn_auth_error(conn_t *c, const redisReply *reply)
{
    if (strncmp(reply->str, "ERR", 3) == 0
        && strstr(reply->str, "without any password configured") != NULL)
    {
        conn_fail(c, "a password is given, but the server has none for its "
                     "default user");

    } else if (strstr(reply->str, "max number of clients") != NULL
               || strncmp(reply->str, "LOADING", 7) == 0
               || strncmp(reply->str, "DENIED", 6) == 0)
    {
        conn_error_reply(c, reply);

    } else {
        /* the text may repeat the arguments */

        conn_fail(c, "the server refused the user name or the password");
    }
}


/* a server may have no password for its default user: an empty one is none */

static bool
conn_auth(conn_t *c)
{
    bool             ok;
    redisReply      *reply;
    const server_t  *s;
    const char      *argv[4] = { "AUTH", NULL, NULL, NULL };

    s = c->server;

    if (s->password == NULL || s->password[0] == '\0') {
        return true;
    }

    if (s->user && s->user[0] != '\0') {
        argv[1] = s->user;
        argv[2] = s->password;

    } else {
        argv[1] = s->password;
    }

    conn_append(c, argv);

    reply = conn_read(c);
    if (reply == NULL) {
        return false;
    }

    ok = reply->type != REDIS_REPLY_ERROR;

    if (!ok) {
        conn_auth_error(c, reply);
    }

    freeReplyObject(reply);

    return ok;
}


static bool
conn_select(conn_t *c)
{
    const char  *argv[3] = { "SELECT", c->server->db, NULL };

    return strcmp(c->server->db, "0") == 0
           || conn_do(c, REDIS_REPLY_STATUS, argv);
}


static bool
conn_connect(conn_t *c)
{
    struct timeval   tv;
    const server_t  *s;

    s = c->server;
    tv.tv_sec = c->timeout;
    tv.tv_usec = 0;

    c->redis = s->path ? redisConnectUnixWithTimeout(s->path, tv)
                       : redisConnectWithTimeout(s->host, s->port, tv);

    if (c->redis == NULL) {
        conn_fail(c, "out of memory");
        return false;
    }

    if (c->redis->err) {
        conn_fail(c, "cannot connect: %s", c->redis->errstr);
        return false;
    }

    c->fn_default = c->redis->reader->fn;
    c->fn = *c->fn_default;
    c->fn.createArray = conn_create_array;
    c->redis->reader->fn = &c->fn;
    c->redis->reader->privdata = c;

    if (redisSetTimeout(c->redis, tv) != REDIS_OK) {
        conn_fail(c, "cannot set a timeout: %s", c->redis->errstr);
        return false;
    }

    return true;
}


bool
conn_open(conn_t *c, const server_t *server, int timeout)
{
    memset(c, 0, sizeof(conn_t));
    c->server = server;
    c->timeout = timeout;

    if (conn_connect(c) && conn_auth(c) && conn_select(c)) {
        return true;
    }

    conn_close(c);

    return false;
}
